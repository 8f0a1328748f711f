package compare

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"

	"pyhook/tensor"
)

// distributions are how gradients of shapes alone are drawn, by name, with the sentence that says it.
// Each is scale x (common + own/2): the common part is what all ranks share in a step, as gradients
// of one model on different data are alike, and the own part is a normal one of each rank.
var distributions = map[string]string{
	"lowrank": "0.01 x (common + own/2); common: of a matrix 0.8 L + 0.6 L_t, L fixed and L_t new in each step, both of rank 4 with singular values " +
		"falling as 1/i, and of a vector normal; own: normal, of each rank and step",
	"normal": "0.01 x (common + own/2), both normal and new in each step: the worst case for hooks that compress by low rank or by size",
	"heavy":  "0.01 x (common + own/2); common: the cube of a normal number / sqrt(15), new in each step, so that few elements hold most of it; own: normal",
}

// DistributionNames lists the distributions.
func DistributionNames() []string { return []string{"lowrank", "normal", "heavy"} }

// ErrDistribution is wrapped by the error of a distribution that is not known.
var ErrDistribution = errors.New("unknown distribution")

const (
	gradientScale = 0.01
	lowRank       = 4
)

// mix is splitmix64's finaliser (Steele, Lea, Flood 2014): each bit of x changes half of the
// result's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// stream names a sequence of numbers.
func stream(seed uint64, parts ...int) uint64 {
	key := mix(seed)
	for _, part := range parts {
		key = mix(key ^ uint64(part+2))
	}
	return key
}

// normal is number i of a stream: the sum of four 16-bit numbers, scaled to variance 1 and mean 0,
// which is normal but for its ends at 3.46.
func normal(stream uint64, i int64) float32 {
	x := mix(stream + uint64(i))
	sum := int64(x&0xffff) + int64(x>>16&0xffff) + int64(x>>32&0xffff) + int64(x>>48) - 2*0xffff
	return float32(sum) * float32(1.7320508/65536)
}

// drawn is the Source of a model's shapes.
type drawn struct {
	model   *Model
	kind    string
	buckets []Bucket
	seed    uint64
	// factors are the low-rank parts of the step, by parameter; of fixed ones once for all.
	fixed, fresh map[int]*factors
	step         int
}

func newDrawn(m *Model, c SourceConfig) (*drawn, error) {
	if _, known := distributions[c.Gradients]; !known {
		return nil, fmt.Errorf("%w %q: there are %s", ErrDistribution, c.Gradients, strings.Join(DistributionNames(), ", "))
	}
	return &drawn{model: m, kind: c.Gradients, buckets: layout(m.Parameters, c.CapMB), seed: c.Seed,
		fixed: map[int]*factors{}, fresh: map[int]*factors{}, step: -1}, nil
}

func (d *drawn) Parameters() []Parameter { return d.model.Parameters }
func (d *drawn) Buckets() []Bucket       { return d.buckets }
func (d *drawn) Describe() string {
	return fmt.Sprintf("%s's shapes, gradients drawn (%s): %s", d.model.Name, d.kind, distributions[d.kind])
}

// Fill draws on all cores.
func (d *drawn) Fill(step, bucket, rank int, into *tensor.Tensor) error {
	values, err := tensor.Slice[float32](into)
	if err != nil {
		return err
	}
	if step != d.step {
		d.step = step
		clear(d.fresh)
	}
	b := d.buckets[bucket]
	for k, i := range b.Parameters {
		p := d.model.Parameters[i]
		n := p.elements()
		d.fill(values[b.Offsets[k]:b.Offsets[k]+n], p, i, step, rank)
	}
	return nil
}

// fill draws one parameter's gradient.
func (d *drawn) fill(into []float32, p Parameter, index, step, rank int) {
	own := stream(d.seed, step, index, rank)
	common := stream(d.seed, step, index, -1)
	cols, matrix := int64(len(into)), len(p.Shape) > 1
	if matrix {
		cols /= p.Shape[0]
	}
	if d.kind != "lowrank" || !matrix {
		heavy := d.kind == "heavy"
		inParallel(int64(len(into)), func(from, to int64) {
			for i := from; i < to; i++ {
				c := normal(common, i)
				if heavy {
					c *= c * c * float32(0.2581989)
				}
				into[i] = gradientScale * (c + normal(own, i)/2)
			}
		})
		return
	}
	fixed := d.factors(d.fixed, index, p.Shape[0], cols, stream(d.seed, -1, index), 0.8)
	fresh := d.factors(d.fresh, index, p.Shape[0], cols, common, 0.6)
	inParallel(p.Shape[0], func(from, to int64) {
		for row := from; row < to; row++ {
			line := into[row*cols : (row+1)*cols]
			u, w := fixed.left[row*lowRank:][:lowRank], fresh.left[row*lowRank:][:lowRank]
			for c := range line {
				v, x := fixed.right[c*lowRank:][:lowRank], fresh.right[c*lowRank:][:lowRank]
				sum := u[0]*v[0] + u[1]*v[1] + u[2]*v[2] + u[3]*v[3] + w[0]*x[0] + w[1]*x[1] + w[2]*x[2] + w[3]*x[3]
				line[c] = gradientScale * (sum + normal(own, row*cols+int64(c))/2)
			}
		}
	})
}

// factors are a matrix of rank lowRank: the sum over i of left's column i by right's.
type factors struct{ left, right []float32 }

// factors makes a parameter's, whose elements have variance weight^2.
func (d *drawn) factors(kept map[int]*factors, index int, rows, cols int64, from uint64, weight float64) *factors {
	if f := kept[index]; f != nil {
		return f
	}
	norm := 0.0
	for i := range lowRank {
		norm += 1 / float64((i+1)*(i+1))
	}
	f := &factors{make([]float32, rows*lowRank), make([]float32, cols*lowRank)}
	for i := range f.left {
		f.left[i] = normal(from, int64(i)) * float32(weight/math.Sqrt(norm)/float64(i%lowRank+1))
	}
	for i := range f.right {
		f.right[i] = normal(mix(from), int64(i))
	}
	kept[index] = f
	return f
}

// inParallel cuts n into a part for each core. Few are done here.
func inParallel(n int64, do func(from, to int64)) {
	parts := int64(runtime.GOMAXPROCS(0))
	if n < 1<<12 && parts > 1 {
		do(0, n)
		return
	}
	var wait sync.WaitGroup
	for part := range parts {
		wait.Go(func() { do(n*part/parts, n*(part+1)/parts) })
	}
	wait.Wait()
}
