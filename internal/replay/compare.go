package replay

import (
	"bytes"
	"fmt"
	"math"

	"pyhook/internal/trace"
	"pyhook/tensor"
)

// Difference is how a replayed result differs from the recorded one.
type Difference struct {
	Step   int `json:"step"`
	Bucket int `json:"bucket"`
	Rank   int `json:"rank"`
	// Why is what keeps the elements from being compared: another dtype or length. The rest is
	// empty then.
	Why string `json:"why,omitempty"`

	DType     string `json:"dtype"`
	Elements  int64  `json:"elements"`  // of the bucket
	Differing int64  `json:"differing"` // of them
	// The first that differs: where in the bucket, of which parameter, where in it, and its values.
	First     int64   `json:"first"`
	Parameter string  `json:"parameter"`
	Index     []int64 `json:"index"`
	Recorded  Number  `json:"recorded"`
	Replayed  Number  `json:"replayed"`
	// ULPs is how many numbers of the dtype lie between the two; -1 where there is none.
	ULPs int64 `json:"ulps"`
	// Largest is the largest error of all elements, RMS the root of the mean of their squares, and
	// Relative the largest by the largest recorded element.
	Largest  float64 `json:"largest_error"`
	RMS      float64 `json:"rms_error"`
	Relative float64 `json:"relative_error"`
}

// Number is a float64 that JSON can hold, not finite ones too: as text.
type Number float64

// MarshalJSON writes a number, or "NaN", "+Inf", "-Inf".
func (n Number) MarshalJSON() ([]byte, error) {
	if f := float64(n); math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Appendf(nil, "%q", fmt.Sprint(f)), nil
	}
	return fmt.Appendf(nil, "%v", float64(n)), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (n *Number) UnmarshalJSON(text []byte) error {
	_, err := fmt.Sscan(string(bytes.Trim(text, `"`)), (*float64)(n))
	return err
}

// compare compares a result with the recorded one bit by bit; nil: they are the same.
func (r *rankRun) compare(c *call, file *trace.Tensors, result *tensor.Tensor) (*Difference, error) {
	recorded := &c.recorded.Result
	dtype, err := r.rank.DTypeOf(recorded.DType)
	if err != nil {
		return nil, &trace.Error{Path: r.rank.Path(), Detail: err.Error()}
	}
	n := recorded.Numel()
	if err := file.Check("result", n*int64(dtype.Size())); err != nil {
		return nil, err
	}
	want, err := tensor.New(dtype, n)
	if err != nil {
		return nil, err
	}
	defer want.Close()
	wantRaw, err := tensor.RawBytes(want)
	if err != nil {
		return nil, err
	}
	if err := file.Read("result", wantRaw); err != nil {
		return nil, err
	}
	// DDP takes as many elements as the bucket has, and so does ParseHookResult.
	took := min(n, c.bucket.Buffer().Len())
	wantRaw = wantRaw[:took*int64(dtype.Size())]
	d := &Difference{DType: dtype.String(), Elements: took, ULPs: -1}
	switch {
	case result.DType() != dtype:
		d.Why = fmt.Sprintf("the replayed result is %s and the recorded one %s", result.DType(), dtype)
	case result.Len() != took:
		d.Why = fmt.Sprintf("the replayed result has %d elements and the recorded one %d", result.Len(), took)
	}
	if d.Why != "" {
		d.Relative = math.MaxFloat64
		return d, nil
	}
	got, err := tensor.New(dtype, took)
	if err != nil {
		return nil, err
	}
	defer got.Close()
	if err := tensor.Copy(got, result); err != nil { // it may have strides
		return nil, err
	}
	gotRaw, err := tensor.RawBytes(got)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(gotRaw, wantRaw) {
		return nil, nil
	}
	if d.First = firstDifference(d, wantRaw, gotRaw, dtype.Size()); d.First >= 0 {
		d.Parameter, d.Index = r.locate(c, d.First)
	}
	if took < n {
		if want, err = want.View(0, []int64{took}, nil); err != nil {
			return nil, err
		}
		defer want.Close()
	}
	return d, d.measure(want, got, wantRaw, gotRaw)
}

// firstDifference counts the elements that differ, and returns the first.
func firstDifference(d *Difference, want, got []byte, size int) int64 {
	first := int64(-1)
	for i := 0; i < len(want); i += size {
		if bytes.Equal(want[i:i+size], got[i:i+size]) {
			continue
		}
		d.Differing++
		if first < 0 {
			first = int64(i / size)
		}
	}
	return first
}

// measure computes the errors, where the dtype is one that can be computed with.
func (d *Difference) measure(want, got *tensor.Tensor, wantRaw, gotRaw []byte) error {
	dtype := want.DType()
	if dtype.IsFloat8() {
		d.Relative = math.MaxFloat64
		return nil
	}
	wide := tensor.Float64
	if dtype.IsComplex() {
		wide = tensor.Complex128
	}
	wantValues, err := widen(want, wide)
	if err != nil {
		return err
	}
	gotValues, err := widen(got, wide)
	if err != nil {
		return err
	}
	per := len(wantValues) / int(max(1, want.Len()))
	at := int(d.First) * per
	for part := range per { // the part of a complex number that differs
		if math.Float64bits(wantValues[at+part]) != math.Float64bits(gotValues[at+part]) {
			at += part
			break
		}
	}
	d.Recorded, d.Replayed = Number(wantValues[at]), Number(gotValues[at])
	size := dtype.Size() / per
	d.ULPs = ulps(dtype, wantRaw[at*size:(at+1)*size], gotRaw[at*size:(at+1)*size])
	var squares, norm float64
	for i, w := range wantValues {
		off := math.Abs(gotValues[i] - w)
		if math.IsNaN(off) || math.IsInf(off, 0) {
			if math.Float64bits(w) == math.Float64bits(gotValues[i]) || w == gotValues[i] {
				off = 0
			} else {
				off = math.MaxFloat64
			}
		}
		d.Largest = max(d.Largest, off)
		squares += off * off
		if !math.IsNaN(w) && !math.IsInf(w, 0) {
			norm = max(norm, math.Abs(w))
		}
	}
	d.RMS = min(math.Sqrt(squares/float64(len(wantValues))), math.MaxFloat64)
	if d.Relative = d.Largest; norm > 0 {
		d.Relative = min(d.Largest/norm, math.MaxFloat64)
	}
	return nil
}

// widen returns a tensor's elements as float64, those of a complex one as pairs.
func widen(t *tensor.Tensor, dtype tensor.DType) ([]float64, error) {
	wide, err := tensor.New(dtype, t.Len())
	if err != nil {
		return nil, err
	}
	defer wide.Close()
	if err := tensor.Copy(wide, t); err != nil {
		return nil, err
	}
	raw, err := tensor.RawBytes(wide)
	if err != nil {
		return nil, err
	}
	values := make([]float64, len(raw)/8)
	for i := range values {
		values[i] = math.Float64frombits(littleEndian(raw[8*i : 8*i+8]))
	}
	return values, nil
}

func littleEndian(raw []byte) (bits uint64) {
	for i, b := range raw {
		bits |= uint64(b) << (8 * i)
	}
	return bits
}

// ulps is how many representable numbers lie between two floats, or two ints; -1 with a NaN.
func ulps(dtype tensor.DType, a, b []byte) int64 {
	bits := uint(8 * len(a))
	x, y := littleEndian(a), littleEndian(b)
	var mantissa uint
	switch dtype.Real() {
	case tensor.Float64:
		mantissa = 52
	case tensor.Float32:
		mantissa = 23
	case tensor.Float16:
		mantissa = 10
	case tensor.BFloat16:
		mantissa = 7
	case tensor.UInt8, tensor.Bool:
		return distance(int64(x), int64(y))
	default:
		return distance(int64(x<<(64-bits))>>(64-bits), int64(y<<(64-bits))>>(64-bits))
	}
	sign := uint64(1) << (bits - 1)
	infinity := (sign - 1) &^ (1<<mantissa - 1)
	if x&^sign > infinity || y&^sign > infinity {
		return -1
	}
	order := func(v uint64) int64 { // as the numbers are ordered, both zeros at 0
		if v&sign != 0 {
			return -int64(v &^ sign)
		}
		return int64(v)
	}
	return distance(order(x), order(y))
}

func distance(a, b int64) int64 {
	if a < b {
		a, b = b, a
	}
	if n := uint64(a) - uint64(b); n <= math.MaxInt64 {
		return int64(n)
	}
	return math.MaxInt64
}

// locate says of which parameter an element of the bucket is, and where in it.
func (r *rankRun) locate(c *call, element int64) (name string, index []int64) {
	for i, begin := range c.bucket.Offsets() {
		if element < begin || element >= begin+c.bucket.Lengths()[i] {
			continue
		}
		if name = c.bucket.Parameters()[i].Name; name == "" {
			name = fmt.Sprintf("parameter %d", r.rank.Layouts[c.recorded.Layout].Gradients[i].Parameter)
		}
		shape, at := c.bucket.Sizes()[i], element-begin
		index = make([]int64, len(shape))
		for d := len(shape) - 1; d >= 0; d-- {
			index[d] = at % shape[d]
			at /= shape[d]
		}
		return name, index
	}
	return "", nil
}
