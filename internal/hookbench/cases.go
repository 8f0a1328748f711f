package hookbench

import (
	"fmt"
	"math"

	"pyhook/c10d"
	"pyhook/internal/hookspec"
	"pyhook/tensor"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// Case is one line of the table.
type Case struct {
	Spec   hookspec.Spec // a Python hook; each side makes a state of its own
	Bytes  int64         // of the bucket's float32 buffer
	Params int
	World  int
	// Callers call at once, each from a thread and with a bucket of its own; 0 is one.
	Callers int
	// Busy: a Python thread computes meanwhile, and a millisecond lies between calls.
	Busy bool
	// Chained: the Go side calls the hook as package ddp does in the orders serial and
	// ordered, by RunHookChained.
	Chained bool
	// GPU: the buffer is in the GPU's memory, and the group is nccl's.
	GPU bool
}

// noop says that the hook does nothing: its calls are a few microseconds.
func (c Case) noop() bool { return c.Spec.Hook == "noop" }

// alone says that nothing else runs in the process meanwhile.
func (c Case) alone() bool { return c.Callers < 2 && !c.Busy }

// Name is hook/size/parameters, with /2ranks where two processes take part,
// /2callers where two threads call at once, /busy where another holds the GIL, /chained
// where the Go side drains a chain, /gpu on a GPU.
func (c Case) Name() string {
	name := fmt.Sprintf("%s/%s/%d", c.Spec.Hook, size(c.Bytes), c.Params)
	if c.World > 1 {
		name += fmt.Sprintf("/%dranks", c.World)
	}
	if c.Callers > 1 {
		name += fmt.Sprintf("/%dcallers", c.Callers)
	}
	if c.Busy {
		name += "/busy"
	}
	if c.Chained {
		name += "/chained"
	}
	if c.GPU {
		name += "/gpu"
	}
	return name
}

func size(bytes int64) string {
	switch {
	case bytes >= mib && bytes%mib == 0:
		return fmt.Sprintf("%dMiB", bytes/mib)
	case bytes >= kib && bytes%kib == 0:
		return fmt.Sprintf("%dKiB", bytes/kib)
	}
	return fmt.Sprintf("%dB", bytes)
}

// Cases returns all combinations for one hook. Buffers are of float32, rounded
// up to a whole number of elements a parameter.
func Cases(spec hookspec.Spec, sizes []int64, params []int, world int) []Case {
	var cases []Case
	for _, bytes := range sizes {
		for _, n := range params {
			unit := 4 * int64(n)
			cases = append(cases, Case{Spec: spec, Bytes: (bytes + unit - 1) / unit * unit, Params: n, World: world})
		}
	}
	return cases
}

// Suite is the project's own cases.
func Suite() []Case {
	var cases []Case
	specs := []hookspec.Spec{{Hook: "noop"}, {Hook: "allreduce"}, {Hook: "fp16"}, {Hook: "powersgd", State: "powersgd",
		StateArgs: []string{"matrix_approximation_rank=1", "start_powerSGD_iter=2", "min_compression_rate=1"}}}
	for _, spec := range specs {
		cases = append(cases, Cases(spec, []int64{4 * kib, 256 * kib, 25 * mib, 256 * mib}, []int{1, 64, 512}, 1)...)
	}
	for _, spec := range specs[1:] {
		cases = append(cases, Cases(spec, []int64{4 * kib, 25 * mib}, []int{64}, 2)...)
	}
	noop := Cases(specs[0], []int64{4 * kib}, []int{1}, 1)[0]
	for _, callers := range []int{2, 4} {
		noop.Callers = callers
		cases = append(cases, noop)
	}
	noop.Callers, noop.Busy = 0, true
	return append(cases, noop)
}

// GPUSuite is the cases of Suite that one GPU can run.
func GPUSuite() []Case {
	var cases []Case
	for _, c := range Suite() {
		if c.World == 1 && c.alone() {
			c.GPU = true
			cases = append(cases, c)
		}
	}
	return cases
}

// blocks returns how many blocks of how many calls each side runs. It is fixed,
// since all ranks must do the same, and a case takes a few seconds.
func (c Case) blocks(scale float64) (blocks, calls int) {
	switch {
	case c.Busy:
		blocks, calls = 50, 4 // of 5 ms and more
	case c.Callers > 1:
		blocks, calls = 100, 200*c.Callers
	case c.noop():
		blocks, calls = 500, 200
	case c.Bytes >= 256*mib:
		blocks, calls = 7, 1
	case c.Bytes >= 25*mib:
		blocks, calls = 40, 1
	case c.Spec.State != "" && c.Bytes < 25*mib:
		blocks, calls = 100, 2
	default:
		blocks, calls = 100, 20
	}
	return max(3, int(math.Round(float64(blocks)*scale))), calls
}

// shape divides the buffer evenly into matrices as square as can be, since
// PowerSGD compresses matrices only.
func (c Case) shape() []int64 {
	n := c.Bytes / 4 / int64(c.Params)
	rows := int64(math.Sqrt(float64(n)))
	for n%rows != 0 {
		rows--
	}
	return []int64{rows, n / rows}
}

// bucket is the case's bucket over its buffer, which stays the caller's.
func (c Case) bucket(buffer *tensor.Tensor, params []*c10d.Parameter) (*c10d.GradBucket, error) {
	cfg := c10d.BucketConfig{Index: 0, Count: 1, Buffer: buffer, Parameters: params}
	for i := range c.Params {
		length := c.Bytes / 4 / int64(c.Params)
		cfg.Offsets = append(cfg.Offsets, int64(i)*length)
		cfg.Lengths = append(cfg.Lengths, length)
		cfg.Sizes = append(cfg.Sizes, c.shape())
	}
	return c10d.NewGradBucket(cfg)
}
