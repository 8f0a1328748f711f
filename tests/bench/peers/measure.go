package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"pyhook/internal/quantile"
	"pyhook/tests/bench/peers/side"
)

// row is a peer's figures of a case: microseconds a call.
type row struct {
	Peer  string  `json:"peer"`
	What  string  `json:"what"`
	Hook  string  `json:"hook"`
	Bytes int     `json:"bytes"`
	Ranks int     `json:"ranks"`
	US    float64 `json:"us"`     // median of the blocks' medians
	P99US float64 `json:"p99_us"` // median of the blocks' 99th percentiles
	// Ratio is the median, over the blocks, of this peer's time over pyhook's in the neighbouring
	// block; a quarter of the ratios lie below RatioLow, one above RatioHigh.
	Ratio     float64 `json:"ratio"`
	RatioLow  float64 `json:"ratio_low"`
	RatioHigh float64 `json:"ratio_high"`
	Copied    *int64  `json:"copied_bytes"` // a call, besides what the hook does; null: not known
	AtLeast   bool    `json:"copied_at_least,omitempty"`
	Blocks    int     `json:"blocks"`
	Calls     int     `json:"calls"` // of a block
	Error     string  `json:"error,omitempty"`
}

// blocks returns how many turns each side has, and how many calls a turn has.
func blocks(c side.Case, scale float64) (blocks, calls int) {
	blocks, calls = 40, 50
	if c.Bytes > 1<<20 {
		blocks, calls = 15, 3
	}
	return max(3, int(math.Round(float64(blocks)*scale))), calls
}

// entrant is a peer that runs, and its figures of the case at hand.
type entrant struct {
	peer
	runner
	row
	medians, p99s []float64 // a block each
}

// start starts the peers; stop ends them.
func start(peers []peer) (entrants []*entrant, err error) {
	for _, p := range peers {
		running, err := p.start()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", p.name, err), stop(entrants))
		}
		entrants = append(entrants, &entrant{peer: p, runner: running})
	}
	return entrants, nil
}

func stop(entrants []*entrant) (err error) {
	for _, e := range entrants {
		if closed := e.close(); closed != nil && e.Error == "" {
			err = errors.Join(err, fmt.Errorf("%s: %w", e.name, closed))
		}
	}
	return err
}

// measure lets the entrants take turns at a case, in an order that is reversed each time. The first
// is the one that the others are compared with. One that fails takes no more turns.
func measure(entrants []*entrant, c side.Case, scale float64) (rows []row, err error) {
	count, calls := blocks(c, scale)
	for _, e := range entrants {
		e.row = row{Peer: e.name, What: e.what, Hook: c.Hook, Bytes: c.Bytes, Ranks: 1, Blocks: count, Calls: calls, Error: e.Error}
		if e.mean {
			e.Ranks = 2
		}
		e.medians, e.p99s = nil, nil
		e.turn(side.Order{Case: c})
	}
	order := slices.Clone(entrants)
	for range count {
		for _, e := range order {
			e.turn(side.Order{Case: c, Calls: calls})
		}
		slices.Reverse(order)
	}
	if base := entrants[0]; base.Error != "" {
		return nil, fmt.Errorf("%s: %s", base.name, base.Error)
	}
	for _, e := range entrants {
		e.finish(entrants[0].medians)
		rows = append(rows, e.row)
	}
	return rows, nil
}

func (e *entrant) turn(o side.Order) {
	if e.Error != "" {
		return
	}
	a, err := e.do(o)
	if err != nil {
		e.Error = err.Error()
		return
	}
	if o.Calls == 0 {
		return
	}
	e.medians, e.p99s = append(e.medians, a.MedianNS/1e3), append(e.p99s, a.P99NS/1e3)
	if e.AtLeast = a.AtLeast; !e.mean {
		e.Copied = &a.Copied
	}
}

func (e *entrant) finish(base []float64) {
	if e.Error != "" {
		return
	}
	ratios := make([]float64, len(base))
	for i := range ratios {
		ratios[i] = e.medians[i] / base[i]
	}
	e.US, e.P99US = quantile.At(e.medians, 0.5), quantile.At(e.p99s, 0.5)
	e.Ratio, e.RatioLow, e.RatioHigh = quantile.At(ratios, 0.5), quantile.At(ratios, 0.25), quantile.At(ratios, 0.75)
}

// endurance is whether a peer bears many calls from several goroutines.
type endurance struct {
	Peer       string  `json:"peer"`
	What       string  `json:"what"`
	Calls      int     `json:"calls"`
	Goroutines int     `json:"goroutines"`
	Bytes      int     `json:"bytes"`
	Survived   bool    `json:"survived"`
	US         float64 `json:"us"`           // of the clock, a call of all goroutines together
	Growth     int64   `json:"growth_bytes"` // of the memory of all its processes, over these calls
	Error      string  `json:"error,omitempty"`
}

// endure has a peer call the noop hook.
func endure(p peer, calls, goroutines int) (e endurance, err error) {
	c := side.Case{Hook: "noop", Bytes: 4 << 10, Callers: goroutines}
	e = endurance{Peer: p.name, What: p.what, Calls: calls, Goroutines: goroutines, Bytes: c.Bytes}
	fmt.Fprintf(os.Stderr, "%-12s %d calls from %d goroutines %s\n", p.name, calls, goroutines, time.Now().Format(time.TimeOnly))
	running, err := p.start()
	if err != nil {
		return e, fmt.Errorf("%s: %w", p.name, err)
	}
	a, failed := running.do(side.Order{Case: c, Calls: calls, Endure: true})
	closed := running.close()
	if failed := errors.Join(failed, closed); failed != nil {
		e.Error = failed.Error()
		return e, nil
	}
	e.Survived, e.US, e.Growth = true, float64(a.WallNS)/1e3/float64(calls), a.After-a.Before
	return e, nil
}
