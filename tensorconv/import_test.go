package tensorconv_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/internal/torchtest"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

func TestFromPython_Numpy(t *testing.T) {
	tests := []struct {
		name, array string
		dtype       tensor.DType
		shape       []int64
		strides     []int64
	}{
		{"a matrix", "numpy.arange(12, dtype='f4').reshape(3, 4)", tensor.Float32, []int64{3, 4}, []int64{4, 1}},
		{"a scalar", "numpy.array(7, dtype='i8')", tensor.Int64, []int64{}, []int64{}},
		{"nothing", "numpy.zeros((0, 3), dtype='f8')", tensor.Float64, []int64{0, 3}, []int64{3, 1}},
		{"reversed and transposed", "numpy.arange(12, dtype='i2').reshape(3, 4)[:, ::-1].T", tensor.Int16, []int64{4, 3}, []int64{-1, 4}},
		{"every other", "numpy.arange(12, dtype='u1')[1::2]", tensor.UInt8, []int64{6}, []int64{2}},
		{"broadcast", "numpy.lib.stride_tricks.as_strided(numpy.arange(3, dtype='u2'), (2, 3), (0, 2))", tensor.UInt16, []int64{2, 3}, []int64{0, 1}},
		{"half", "numpy.arange(3, dtype='f2')", tensor.Float16, []int64{3}, []int64{1}},
		{"complex", "numpy.arange(3, dtype='c16') * 1j", tensor.Complex128, []int64{3}, []int64{1}},
		{"unsigned 64", "numpy.arange(3, dtype='u8')", tensor.UInt64, []int64{3}, []int64{1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			torchtest.NoLeaks(t)
			array := torchtest.Eval(t, test.array)
			bytes, err := array.CallValue("tobytes")
			require.NoError(t, err)
			for _, versioned := range []bool{false, true} {
				o, err := torchtest.Helper.Call("capsule_of", array, versioned)
				require.NoError(t, err)
				defer o.Close()
				if o.IsNone() {
					continue
				}
				check(t, torchtest.FromPython(t, o), test.dtype, test.shape, test.strides, bytes)
			}
			check(t, torchtest.FromPython(t, array), test.dtype, test.shape, test.strides, bytes)
		})
	}
}

func check(t *testing.T, x *tensor.Tensor, dtype tensor.DType, shape, strides []int64, bytes any) {
	t.Helper()
	assert.Equal(t, dtype, x.DType())
	assert.Equal(t, shape, x.Shape())
	if x.Len() > 0 {
		assert.Equal(t, strides, x.Strides())
	}
	assert.Equal(t, bytes, torchtest.Walk(x))
}

func TestFromPython(t *testing.T) {
	t.Run("an array lives until its tensor is closed", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x := func() *tensor.Tensor {
			array, err := torchtest.Helper.Call("evaluate", "numpy.full(100_000, 7.0)")
			require.NoError(t, err)
			defer array.Close()
			return torchtest.FromPython(t, array)
		}()
		values, err := tensor.Slice[float64](x)
		require.NoError(t, err)
		torchtest.Call(t, "evaluate", "[numpy.zeros(100_000) for _ in range(50)] and None")
		for _, v := range values {
			require.Equal(t, 7.0, v)
		}
	})
	t.Run("a closed object is refused", func(t *testing.T) {
		torchtest.NoLeaks(t)
		o := torchtest.Eval(t, "torch.zeros(2)")
		o.Close()
		_, err := tensorconv.FromPython(o)
		require.ErrorIs(t, err, cbridge.ErrObjectClosed)
	})
	t.Run("read-only memory of every numpy is refused", func(t *testing.T) {
		torchtest.NoLeaks(t)
		_, err := tensorconv.FromPython(torchtest.Eval(t, "numpy.frombuffer(bytes(8), dtype='f4')"))
		torchtest.RequireError(t, err, "")
		if !errors.Is(err, cbridge.Exception("BufferError")) { // numpy's own, before 2.1
			torchtest.RequireError(t, err, "read-only: copy it first")
		}
	})
	t.Run("the error of a producer is kept", func(t *testing.T) {
		torchtest.NoLeaks(t)
		_, err := tensorconv.FromPython(torchtest.Eval(t, "Producer(lambda **k: 1 / 0)"))
		require.ErrorIs(t, err, cbridge.Exception("ZeroDivisionError"))
	})
	t.Run("a producer before DLPack 1 is asked again", func(t *testing.T) {
		torchtest.NoLeaks(t)
		o := torchtest.Eval(t, "Producer(lambda stream=None: numpy.arange(3).__dlpack__())")
		assert.Equal(t, int64(3), torchtest.FromPython(t, o).Len())
	})
	t.Run("subclasses and views of tensors", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x := torchtest.FromPython(t, torchtest.Eval(t, "torch.nn.Parameter(torch.ones(3), requires_grad=False)"))
		assert.Equal(t, []int64{3}, x.Shape())
		y := torchtest.FromPython(t, torchtest.Eval(t, "torch.arange(10.)[4:].detach()"))
		values, err := tensor.Slice[float32](y)
		require.NoError(t, err)
		assert.Equal(t, []float32{4, 5, 6, 7, 8, 9}, values)
	})
}

func TestFromPython_Errors(t *testing.T) {
	tests := []struct{ name, object, why string }{
		{"a number", "5", "nor an unused DLPack capsule"},
		{"None", "None", "nor an unused DLPack capsule"},
		{"requires grad", "torch.zeros(2, requires_grad=True)", "requires grad: detach it"},
		{"a parameter", "torch.nn.Parameter(torch.zeros(2))", "requires grad: detach it"},
		{"conjugate bit", "torch.zeros(2, dtype=torch.complex64).conj()", "conjugate bit set"},
		{"negative bit", "torch.zeros(2, dtype=torch.complex64).conj().imag", "negative bit set"},
		{"meta", "torch.zeros(2, device='meta')", ""},
		{"sparse", "torch.zeros(2, 2).to_sparse()", ""},
		{"sparse rows", "torch.zeros(2, 2).to_sparse_csr()", ""},
		{"quantized", "torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)", ""},
		{"strings", "numpy.array(['a'])", ""},
		{"objects", "numpy.array([None])", ""},
		{"long double", "numpy.zeros(2, dtype='g')", "IEEE floating"},
		{"big-endian", "numpy.zeros(2, dtype='>f4')", ""},
		{"read-only", "numpy.frombuffer(bytes(8), dtype='f4')", ""},
		{"not aligned", "numpy.frombuffer(bytearray(9), dtype='u1')[1:].view('f4')", ""},
		{"__dlpack__ raises", "Producer(lambda **k: 1 / 0)", "__dlpack__ refused"},
		{"__dlpack__ gives no capsule", "Producer(lambda **k: 5)", "nor an unused DLPack capsule"},
		{"version 9", "crafted(9, 0, True, 1, 1, [2], [1], 2, 32, 1, 0)", "version 9 is not known"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			torchtest.NoLeaks(t)
			_, err := tensorconv.FromPython(torchtest.Eval(t, test.object))
			torchtest.RequireError(t, err, test.why)
			t.Log(firstLine(err))
		})
	}
	torchtest.Call(t, "deletions")
}

func firstLine(err error) string {
	text := err.Error()
	for i, c := range text {
		if c == '\n' {
			return text[:i]
		}
	}
	return text
}

// crafts are the contents of a crafted capsule; see fuzz_test.go.
type craft struct {
	major, flags            int64
	data                    any // an address; true: some memory; nil
	device, ndim            int64
	shape, strides          []int64
	code, bits, lanes, from int64
	shapeAt                 int64 // an address in place of shape
}

func (c craft) capsule(t testing.TB) *cbridge.Object {
	t.Helper()
	list := func(s []int64) any {
		if s == nil {
			return nil
		}
		return s
	}
	shape := list(c.shape)
	if c.shapeAt != 0 {
		shape = c.shapeAt
	}
	o, err := torchtest.Helper.Call("crafted", c.major, c.flags, c.data, c.device, c.ndim, shape, list(c.strides), c.code, c.bits, c.lanes, c.from)
	require.NoError(t, err)
	return o
}

func TestFromPython_Capsules(t *testing.T) {
	good := craft{data: true, device: 1, ndim: 2, shape: []int64{2, 3}, strides: []int64{3, 1}, code: dlFloat, bits: 32, lanes: 1}
	with := func(f func(*craft)) craft { c := good; f(&c); return c }
	tests := []struct {
		name  string
		craft craft
		why   string // of the refusal; empty: it is read
	}{
		{"legacy", good, ""},
		{"versioned", with(func(c *craft) { c.major = 1 }), ""},
		{"no strides", with(func(c *craft) { c.strides = nil }), ""},
		{"an offset in bytes", with(func(c *craft) { c.from = 8 }), ""},
		{"copied for us", with(func(c *craft) { c.major, c.flags = 1, 2 }), ""},
		{"no elements and no memory", with(func(c *craft) { c.shape, c.data, c.from = []int64{0, 3}, nil, 24 }), ""},
		{"a scalar without sizes", with(func(c *craft) { c.ndim, c.shape, c.strides = 0, nil, nil }), ""},
		{"read-only", with(func(c *craft) { c.major, c.flags = 1, 1 }), "read-only"},
		{"another version", with(func(c *craft) { c.major = 2 }), "version 2 is not known"},
		{"negative rank", with(func(c *craft) { c.ndim = -1 }), "-1 dimensions"},
		{"a rank beyond numpy's", with(func(c *craft) { c.ndim = 65 }), "65 dimensions"},
		{"the largest rank", with(func(c *craft) { c.ndim = 1<<31 - 1 }), "dimensions"},
		{"no sizes", with(func(c *craft) { c.shape = nil }), "without sizes"},
		{"a negative size", with(func(c *craft) { c.shape = []int64{2, -3} }), "negative size"},
		{"too many elements", with(func(c *craft) { c.shape = []int64{1 << 40, 1 << 40} }), "too many elements"},
		{"far strides", with(func(c *craft) { c.strides = []int64{-1 << 63, 1} }), "beyond any memory"},
		{"no memory", with(func(c *craft) { c.data = nil }), "no memory"},
		{"an offset round the address space", with(func(c *craft) { c.from = -4 }), "goes round the address space"},
		{"strides round the address space", with(func(c *craft) { c.strides = []int64{-1 << 57, 1} }), "goes round the address space"},
		{"no device of DLPack's", with(func(c *craft) { c.device = 0 }), "device type 0"},
		{"a negative device", with(func(c *craft) { c.device = -3 }), "device type -3"},
		{"not aligned", with(func(c *craft) { c.from = 2 }), "not aligned"},
		{"vectors", with(func(c *craft) { c.lanes = 4 }), "4 lanes"},
		{"an opaque type", with(func(c *craft) { c.code = 3 }), "type code 3"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			torchtest.NoLeaks(t)
			torchtest.Call(t, "deletions")
			o := test.craft.capsule(t)
			x, err := tensorconv.FromPython(o)
			o.Close()
			if test.why == "" {
				require.NoError(t, err)
				assert.Len(t, torchtest.Walk(x), int(x.Bytes()))
				assert.Equal(t, []any{int64(0), int64(1)}, torchtest.Call(t, "deletions"))
				x.Close()
			} else {
				torchtest.RequireError(t, err, test.why)
			}
			assert.Equal(t, []any{int64(1), int64(0)}, torchtest.Call(t, "deletions"), fmt.Sprint(err))
		})
	}
}
