package compare

import "math"

// Calibration are the two constants of this machine, torch and backend in the model of a
// collective's time:
//
//	messages x (MessageSeconds + latency) + bytes x max(ByteSeconds, the link's seconds for a byte)
//
// where messages follow one another, and bytes go through the busiest rank's link (collective.go).
type Calibration struct {
	MessageSeconds float64 `json:"message_seconds"` // of software, for one message of a collective
	ByteSeconds    float64 `json:"byte_seconds"`    // of software, for one byte sent, received and added
}

// calibrate solves the model for the two constants, of all-reduces of few and of many bytes over
// loopback.
func calibrate(ranks int, few, many int64, fewSeconds, manySeconds float64) Calibration {
	small, _ := Collective{"all_reduce", few}.cost(ranks)
	large, _ := Collective{"all_reduce", many}.cost(ranks)
	perMessage := fewSeconds / small.messages
	return Calibration{perMessage, max(0, manySeconds-large.messages*perMessage) / large.critical}
}

// least is the better of two calibrations in each constant: what disturbs one makes it longer.
func (c Calibration) least(o Calibration) Calibration {
	return Calibration{min(c.MessageSeconds, o.MessageSeconds), min(c.ByteSeconds, o.ByteSeconds)}
}

// seconds is how long a collective takes on n ranks of a network.
func (c Calibration) seconds(one cost, net Network) float64 {
	return one.messages*(c.MessageSeconds+net.Latency) + one.critical*math.Max(c.ByteSeconds, net.secondsPerByte())
}

// Prediction is a step's reduction on a network that is not here.
type Prediction struct {
	Network string  `json:"network"`
	Ranks   int     `json:"ranks"`
	Bytes   float64 `json:"bytes"` // that a rank sends in a step
	// Seconds is the time to reduce all buckets, one after another: the hook's own work as measured
	// here, and the collectives'.
	Seconds           float64 `json:"seconds"`
	CollectiveSeconds float64 `json:"collective_seconds"`
	// StepSeconds is the whole step, whose backward pass the reduction overlaps: see Overlap. 0 where
	// no time of the passes was given.
	StepSeconds float64 `json:"step_seconds,omitempty"`
}

// BucketCost is what a bucket takes in each step.
type BucketCost struct {
	Elements    int64        `json:"elements"`
	HookSeconds float64      `json:"hook_seconds"` // that no collective was under way
	Collectives []Collective `json:"collectives"`
}

// Predict takes the buckets of a step to a network. passes is the time of the forward and backward
// passes, 0 if it is not known.
func Predict(buckets []BucketCost, c Calibration, net Network, ranks int, passes float64) Prediction {
	p := Prediction{Network: net.Name, Ranks: ranks}
	each := make([]float64, len(buckets))
	for i, b := range buckets {
		each[i] = b.HookSeconds
		for _, one := range b.Collectives {
			if cost, known := one.cost(ranks); known {
				seconds := c.seconds(cost, net)
				p.CollectiveSeconds += seconds
				p.Bytes += cost.sent
				each[i] += seconds
			}
		}
		p.Seconds += each[i]
	}
	if passes > 0 {
		p.StepSeconds = overlap(buckets, each, passes)
	}
	return p
}

// overlap is the length of a step in which bucket after bucket is reduced while the backward pass,
// two thirds of the passes, makes the next ones: their gradients become ready in proportion to their
// elements.
func overlap(buckets []BucketCost, each []float64, passes float64) float64 {
	total := int64(0)
	for _, b := range buckets {
		total += b.Elements
	}
	forward, made, end := passes/3, int64(0), 0.0
	for i, b := range buckets {
		made += b.Elements
		ready := forward + (passes-forward)*float64(made)/float64(total)
		end = max(end, ready) + each[i]
	}
	return end
}
