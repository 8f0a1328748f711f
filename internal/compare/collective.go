package compare

import (
	"math"
	"math/bits"
)

// Collective is one that a hook issued: its kind, by the name of torch.distributed, and the bytes
// that a rank brings to it.
type Collective struct {
	Kind  string `json:"kind"`
	Bytes int64  `json:"bytes"`
}

// cost is what a collective takes of a network.
type cost struct {
	messages float64 // one after another, each of which waits for the one before
	critical float64 // bytes through the link of the rank that has most to do
	sent     float64 // bytes that a rank sends, the mean over the ranks
}

// costs are by kind, for n ranks that bring b bytes each: of a ring, as gloo's and NCCL's are, and of
// a binomial tree for a broadcast and a reduction to one rank. The Python half's meter (collective_meter.py)
// gives the kinds.
var costs = map[string]func(n, b float64) cost{
	"all_reduce":     func(n, b float64) cost { return cost{2 * (n - 1), 2 * (n - 1) / n * b, 2 * (n - 1) / n * b} },
	"all_gather":     func(n, b float64) cost { return cost{n - 1, (n - 1) * b, (n - 1) * b} },
	"reduce_scatter": func(n, b float64) cost { return cost{n - 1, (n - 1) / n * b, (n - 1) / n * b} },
	"all_to_all":     func(n, b float64) cost { return cost{n - 1, (n - 1) / n * b, (n - 1) / n * b} },
	"broadcast":      func(n, b float64) cost { return cost{levels(n), levels(n) * b, (n - 1) / n * b} },
	"reduce":         func(n, b float64) cost { return cost{levels(n), levels(n) * b, (n - 1) / n * b} },
	"gather":         func(n, b float64) cost { return cost{1, (n - 1) * b, (n - 1) / n * b} },
	"scatter":        func(n, b float64) cost { return cost{1, (n - 1) * b, (n - 1) / n * b} },
	"send":           func(_, b float64) cost { return cost{1, b, b} },
	"recv":           func(_, b float64) cost { return cost{} }, // the sender's
	"barrier":        func(n, _ float64) cost { return cost{levels(n), 0, 0} },
}

// levels is the depth of a binomial tree of n ranks.
func levels(n float64) float64 { return float64(bits.Len(uint(math.Round(n)) - 1)) }

// cost is the collective's on n ranks; false for a kind that has none here.
func (c Collective) cost(n int) (cost, bool) {
	of, known := costs[c.Kind]
	if !known {
		return cost{}, false
	}
	if n == 1 {
		return cost{}, true
	}
	return of(float64(n), float64(c.Bytes)), true
}
