package tensorconv_test

import (
	"fmt"
	"log"

	"pyhook/tensor"
	"pyhook/tensorconv"
)

// A Go slice becomes a tensor of torch's over the same memory.
func ExampleFromSlice() {
	grads := []float32{1, 2, 3, 4, 5, 6}
	x, err := tensor.FromSlice(grads, 2, 3)
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()

	o, err := tensorconv.ToPython(x)
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	doubled, err := o.Call("mul_", 2) // in place
	if err != nil {
		log.Fatal(err)
	}
	defer doubled.Close()
	fmt.Println(x, grads)
	// Output: float32[2 3] on cpu [2 4 6 8 10 12]
}

// C memory is the one to prefer for buckets: it is aligned and never moves.
func ExampleNew() {
	bucket, err := tensor.New(tensor.Float32, 10)
	if err != nil {
		log.Fatal(err)
	}
	defer bucket.Close()
	weight, err := bucket.View(4, []int64{2, 3}, nil) // one parameter's gradient
	if err != nil {
		log.Fatal(err)
	}
	defer weight.Close()
	values, err := tensor.Slice[float32](weight)
	if err != nil {
		log.Fatal(err)
	}
	values[0] = 1
	all, err := tensor.Slice[float32](bucket)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(weight, all)
	// Output: float32[2 3] on cpu [0 0 0 0 1 0 0 0 0 0]
}

// Go sees a Python tensor's memory.
func ExampleFromPython() {
	bits := []uint16{0x3c00, 0x4000} // 1 and 2
	half, err := tensor.FromSliceAs(bits, tensor.Float16)
	if err != nil {
		log.Fatal(err)
	}
	defer half.Close()
	o, err := tensorconv.ToPython(half)
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()

	x, err := tensorconv.FromPython(o)
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()
	fmt.Println(x, x.Data() == half.Data())
	// Output: float16[2] on cpu true
}

// Copy converts between dtypes as torch's copy_ does.
func ExampleCopy() {
	src, err := tensor.FromSlice([]float32{1, 2.5, -3})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	dst, err := tensor.New(tensor.Int8, 3)
	if err != nil {
		log.Fatal(err)
	}
	defer dst.Close()
	if err := tensor.Copy(dst, src); err != nil {
		log.Fatal(err)
	}
	values, err := tensor.Slice[int8](dst)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(values)
	// Output: [1 2 -3]
}
