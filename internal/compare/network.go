package compare

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"
)

// Network is a link between each rank and the others.
type Network struct {
	Name          string  `json:"name"`
	BitsPerSecond float64 `json:"bits_per_second"` // of each rank's link, in each direction
	// Latency is from one rank's program to another's, in one direction, without what the calibration
	// counts.
	Latency float64 `json:"latency_seconds"`
}

// ErrNetwork is wrapped by the errors of ParseNetwork.
var ErrNetwork = errors.New("invalid network")

var networkPattern = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)(k|M|G|T)bit(?:@(.+))?$`)

// ParseNetwork reads 10Gbit, 2.5Gbit, 100Mbit, and 1Gbit@200us with a latency of its own.
func ParseNetwork(text string, latency time.Duration) (Network, error) {
	match := networkPattern.FindStringSubmatch(text)
	if match == nil {
		return Network{}, fmt.Errorf("%w %q: write 10Gbit, 2.5Gbit or 100Mbit, or 1Gbit@200us with its latency", ErrNetwork, text)
	}
	number, err := strconv.ParseFloat(match[1], 64)
	rate := number * map[string]float64{"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]
	if err != nil || rate <= 0 || math.IsInf(rate, 0) {
		return Network{}, fmt.Errorf("%w %q: its rate must be above 0", ErrNetwork, text)
	}
	if match[3] != "" {
		if latency, err = time.ParseDuration(match[3]); err != nil || latency < 0 {
			return Network{}, fmt.Errorf("%w %q: %q is not a latency: write 50us or 2ms", ErrNetwork, text, match[3])
		}
	}
	return Network{Name: text, BitsPerSecond: rate, Latency: latency.Seconds()}, nil
}

// payload is the part of an Ethernet link that carries a TCP connection's bytes: of a frame with
// preamble and gap (1538 bytes) 1448, with IPv4 and TCP's time stamps.
const payload = 1448.0 / 1538

// secondsPerByte is how long a byte of a collective occupies the link.
func (n Network) secondsPerByte() float64 { return 8 / (n.BitsPerSecond * payload) }
