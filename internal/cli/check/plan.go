package check

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"pyhook/ddp"
	"pyhook/internal/cli"
	"pyhook/internal/hookspec"
	"pyhook/tensor"
)

// checkPlan is what a check does, on every rank alike. It travels to the ranks
// as JSON.
type checkPlan struct {
	hookspec.Spec
	Buckets  [][][]int64 // the shapes of the gradients of each
	Steps    int
	DType    string
	Seed     uint64
	Timeout  time.Duration // of each hook call
	Backend  string
	MaxError float64 // 0: not judged

	Order ddp.Order // that is judged
	// Rebuild: the first step has one bucket, as DDP's.
	Rebuild bool
	// RanksMayDiffer: whether the ranks are alike is not judged.
	RanksMayDiffer bool
}

// defaultSizes go round the buckets, the last layer first as DDP does it: a
// linear layer, a convolution, and a mix with odd lengths.
var defaultSizes = []string{"10x64,10", "64x32x3x3,64", "1000,33x17,1"}

// parseSizes reads "64x32,64;1000": gradients divided by commas, buckets by
// semicolons. The list goes round until there are as many buckets as asked.
func parseSizes(text string, buckets int) ([][][]int64, error) {
	lists := defaultSizes
	if text != "" {
		lists = strings.Split(text, ";")
	}
	if buckets == 0 {
		buckets = len(lists)
	}
	if text != "" && len(lists) > buckets {
		return nil, fmt.Errorf("--sizes describes %d buckets and --buckets says %d", len(lists), buckets)
	}
	var all [][][]int64
	for i := range buckets {
		shapes, err := parseShapes(lists[i%len(lists)])
		if err != nil {
			return nil, err
		}
		all = append(all, shapes)
	}
	return all, nil
}

func parseShapes(list string) ([][]int64, error) {
	var shapes [][]int64
	total := int64(0)
	for _, item := range strings.Split(list, ",") {
		var shape []int64
		elements := int64(1)
		for _, number := range strings.Split(strings.TrimSpace(item), "x") {
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil || n < 1 || n > math.MaxInt32 {
				return nil, fmt.Errorf("--sizes: %q is not a shape such as 64x32 or 1000", item)
			}
			shape = append(shape, n)
			if elements *= n; elements > math.MaxInt32 {
				return nil, fmt.Errorf("--sizes: %q is too large for a check", item)
			}
		}
		shapes = append(shapes, shape)
		total += elements
	}
	if total > math.MaxInt32 {
		return nil, fmt.Errorf("--sizes: %q is too large for one bucket", list)
	}
	return shapes, nil
}

// formatShapes is parseShapes backwards.
func formatShapes(shapes [][]int64) string {
	items := make([]string, len(shapes))
	for i, shape := range shapes {
		numbers := make([]string, len(shape))
		for j, n := range shape {
			numbers[j] = strconv.FormatInt(n, 10)
		}
		items[i] = strings.Join(numbers, "x")
	}
	return strings.Join(items, ",")
}

func elementsOf(shapes [][]int64) int64 {
	total := int64(0)
	for _, shape := range shapes {
		elements := int64(1)
		for _, n := range shape {
			elements *= n
		}
		total += elements
	}
	return total
}

// checkDTypes are those that have a mean.
var checkDTypes = []string{"float32", "float64", "float16", "bfloat16"}

// validate gives errors of usage.
func (p *checkPlan) validate() error {
	dtype, err := tensor.ParseDType(p.DType)
	switch {
	case err != nil || !slices.Contains(checkDTypes, dtype.String()):
		return cli.UsageError("--dtype %s: gradients are one of %s", p.DType, strings.Join(checkDTypes, ", "))
	case p.Steps < 1:
		return cli.UsageError("--steps %d: at least 1 is needed", p.Steps)
	case p.Timeout <= 0:
		return cli.UsageError("--timeout %s: it must be more than nothing", p.Timeout)
	case p.MaxError < 0 || math.IsNaN(p.MaxError):
		return cli.UsageError("--max-error %v: it must not be negative", p.MaxError)
	case p.Backend == "nccl":
		return cli.UsageError("--backend nccl: check has its buckets on the CPU, where nccl does not work\n" +
			"hint: --backend gloo judges the same hook")
	}
	p.DType = dtype.String()
	return nil
}
