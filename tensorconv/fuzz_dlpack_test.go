package tensorconv_test

import (
	"encoding/binary"
	"math/big"
	"os"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"pyhook/internal/torchtest"
	"pyhook/tensor"
	"pyhook/tensorconv"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// guarded is a page of known content between two that cannot be read.
var guarded = sync.OnceValues(func() ([]byte, error) {
	page := os.Getpagesize()
	all, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	middle := all[page : 2*page]
	for i := range middle {
		middle[i] = byte(i) ^ byte(i>>8*31)
	}
	for _, guard := range [][]byte{all[:page], all[2*page:]} {
		if err := syscall.Mprotect(guard, syscall.PROT_NONE); err != nil {
			return nil, err
		}
	}
	return middle, nil
})

func addressOf(page []byte) int64 { return int64(uintptr(unsafe.Pointer(unsafe.SliceData(page)))) }

// FuzzDLPackImport: a capsule of any content, legacy or versioned, is a tensor
// exactly if what it says can be true, and is deleted once. All elements of what
// lies in the guarded page are read, by Go and by torch. What is said to be
// elsewhere is not read: whether a producer has that memory, nobody can see.
func FuzzDLPackImport(f *testing.F) {
	type seed struct {
		major                uint32
		flags                uint64
		hasData              bool
		device, ndim         int32
		dims                 []int64 // sizes and strides in turn
		hasShape, hasStrides bool
		code, bits           uint8
		lanes                uint16
		from                 uint64
	}
	for _, s := range []seed{
		{0, 0, true, 1, 2, []int64{2, 3, 3, 1}, true, true, dlFloat, 32, 1, 0},
		{1, 1, true, 1, 2, []int64{2, 3, 3, 1}, true, true, dlFloat, 32, 1, 4},
		{1, 0, true, 1, 3, []int64{2, -3, 3, -1, 4, 0}, true, true, dlComplex, 128, 1, 2048},
		{1, 2, true, 1, 0, nil, false, false, dlBfloat, 16, 1, 4094},
		{1, 0, true, 1, 1, []int64{1024, 1}, true, false, dlFloat, 32, 1, 0},
		{1, 0, true, 1, 1, []int64{1024, 1}, true, false, dlFloat, 32, 1, 4},
		{1, 0, true, 2, 1, []int64{1 << 40, 1}, true, true, dlInt, 8, 1, 0},
		{1, 0, true, 0, 1, []int64{4, 1}, true, true, dlInt, 8, 1, 0},
		{2, 0, false, -7, -7, []int64{-2, 1 << 62, 1 << 62, -1 << 63}, false, true, 255, 0, 0, 1 << 63},
		{1, 0, true, 1, 1, []int64{2, 1 << 57}, true, true, dlComplex, 128, 1, 0},
		{1, 0, true, 1, 1, []int64{2, -1 << 57}, true, true, dlUInt, 64, 1, 0},
		{1, 0, true, 1, 1, []int64{1, 1}, true, true, dlUInt, 8, 1, 1<<64 - 1},
		{0, 0, false, 1, 2, []int64{0, 1, 1 << 57, 1}, true, true, dlComplex, 128, 1, 1 << 63},
	} {
		var dims []byte
		for _, d := range s.dims {
			dims = binary.AppendVarint(dims, d)
		}
		f.Add(s.major, s.flags, s.hasData, s.device, s.ndim, dims, s.hasShape, s.hasStrides, s.code, s.bits, s.lanes, s.from)
	}
	f.Fuzz(func(t *testing.T, major uint32, flags uint64, hasData bool, device, ndim int32, dims []byte, hasShape, hasStrides bool, code, bits uint8, lanes uint16, from uint64) {
		page, err := guarded()
		require.NoError(t, err)
		torchtest.Call(t, "forget") // what an input that failed left
		c := craft{major: int64(major), flags: int64(flags), device: int64(device), ndim: int64(ndim), code: int64(code), bits: int64(bits), lanes: int64(lanes), from: int64(from)}
		if hasData {
			c.data = addressOf(page)
		}
		sizes, strides := readDims(dims, int(min(max(ndim, 0), tensorconv.MaxDims)))
		if hasStrides {
			c.strides = strides
		}
		switch {
		case hasShape && (ndim < 0 || ndim > tensorconv.MaxDims): // so many sizes nobody should look at
			c.shapeAt = addressOf(page) - 8
		case hasShape:
			c.shape = sizes
		}
		capsule := c.capsule(t)
		x, err := tensorconv.FromPython(capsule)
		capsule.Close()
		assert.Equal(t, c.canBe(from), err == nil, "%+v: %v", c, err)
		if err != nil {
			torchtest.RequireError(t, err, "")
		} else {
			func() {
				defer x.Close()
				c.read(t, x, page)
			}()
		}
		assert.Equal(t, []any{int64(1), int64(0)}, torchtest.Call(t, "deletions"))
	})
}

func readDims(from []byte, n int) (sizes, strides []int64) {
	for range n {
		size, read := binary.Varint(from)
		from = from[max(read, 0):]
		step, read2 := binary.Varint(from)
		from = from[max(read2, 0):]
		if read <= 0 || read2 <= 0 {
			size, step = 1, 1
		}
		sizes, strides = append(sizes, size), append(strides, step)
	}
	return sizes, strides
}

// canBe is whether the content describes memory that there could be, by numbers
// without limits.
func (c craft) canBe(from uint64) bool {
	dtype, err := tensor.DTypeOfDLPack(uint8(c.code), uint8(c.bits), uint16(c.lanes))
	if c.major > 1 || c.major == 1 && c.flags&1 != 0 || c.device < 1 || err != nil {
		return false
	}
	if c.ndim < 0 || c.ndim > tensorconv.MaxDims || c.ndim > 0 && c.shape == nil {
		return false
	}
	n, empty := big.NewInt(1), false
	for _, size := range c.shape[:c.ndim] {
		if size < 0 {
			return false
		}
		empty = empty || size == 0
		n.Mul(n, big.NewInt(max(size, 1)))
	}
	limit := big.NewInt(1 << 58)
	if n.Cmp(limit) > 0 {
		return false
	}
	if empty {
		return true
	}
	low, high := c.reach()
	if c.data == nil || low.CmpAbs(limit) > 0 || high.Cmp(limit) > 0 {
		return false
	}
	first := new(big.Int).Add(big.NewInt(c.data.(int64)), new(big.Int).SetUint64(from))
	size := big.NewInt(int64(dtype.Size()))
	lowest := new(big.Int).Add(first, low.Mul(low, size))
	end := new(big.Int).Add(first, high.Mul(high.Add(high, big.NewInt(1)), size))
	return lowest.Sign() > 0 && end.BitLen() < 64 && first.Uint64()%uint64(alignmentOf(dtype)) == 0
}

// reach is the lowest and the highest element, counted from the first.
func (c craft) reach() (low, high *big.Int) {
	low, high = new(big.Int), new(big.Int)
	strides := c.strides
	if strides == nil {
		strides = rowMajor(c.shape[:c.ndim])
	}
	for i, size := range c.shape[:c.ndim] {
		step := new(big.Int).Mul(big.NewInt(size-1), big.NewInt(strides[i]))
		if step.Sign() < 0 {
			low.Add(low, step)
		} else {
			high.Add(high, step)
		}
	}
	return low, high
}

// read compares x's elements with what the page holds where c says they are.
func (c craft) read(t *testing.T, x *tensor.Tensor, page []byte) {
	t.Helper()
	assert.Len(t, x.Strides(), len(x.Shape()))
	assert.Equal(t, tensor.Device{Type: tensor.DeviceType(c.device)}, x.Device())
	if x.Len() == 0 || !x.Device().IsCPU() || x.Len() > 1<<13 {
		return
	}
	_, low, high, err := tensor.Extent(x.Shape(), x.Strides())
	require.NoError(t, err)
	size := int64(x.DType().Size())
	if c.from < 0 || c.from > int64(len(page)) || c.from+low*size < 0 || c.from+(high+1)*size > int64(len(page)) {
		return
	}
	var want []byte
	index := make([]int64, len(x.Shape()))
	for range x.Len() {
		at := c.from
		for i, n := range index {
			at += n * x.Strides()[i] * size
		}
		want = append(want, page[at:at+size]...)
		for i := len(index) - 1; i >= 0; i-- {
			if index[i]++; index[i] < x.Shape()[i] {
				break
			}
			index[i] = 0
		}
	}
	require.Equal(t, want, torchtest.Walk(x))
	o, err := tensorconv.ToPython(x)
	if err != nil {
		if x.Device().Type == tensor.CPU { // this torch may not know of pinned memory
			torchtest.RequireError(t, err, "torch ") // has no such dtype or strides, or needs complex128 aligned
		}
		return
	}
	defer o.Close()
	got := torchtest.Call(t, "raw", o).([]byte)
	if x.DType() == tensor.Bool { // bytes other than 0 and 1 are true, and torch's copies make them 1
		got, want = truths(got), truths(want)
	}
	require.Equal(t, want, got)
}

func truths(bytes []byte) []byte {
	out := make([]byte, len(bytes))
	for i, b := range bytes {
		out[i] = min(b, 1)
	}
	return out
}

// rowMajor are the strides of contiguous memory.
func rowMajor(shape []int64) []int64 {
	strides := make([]int64, len(shape))
	step := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i], step = step, step*max(shape[i], 1)
	}
	return strides
}

// alignmentOf is what an element's address must be a multiple of.
func alignmentOf(dtype tensor.DType) int { return dtype.Real().Size() }

// DLPack's type codes.
const (
	dlInt     = 0
	dlUInt    = 1
	dlFloat   = 2
	dlBfloat  = 4
	dlComplex = 5
)
