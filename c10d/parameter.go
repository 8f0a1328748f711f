package c10d

import (
	"slices"

	"pyhook/tensor"
)

// Parameter is a trainable parameter of the model, as hooks see it in bucket.parameters(): one
// object for the life of the model, whichever bucket it is in.
type Parameter struct {
	Name  string
	Shape []int64
	DType tensor.DType
	// Sparse: its gradient is a SparseGradient, as of nn.Embedding(sparse=True).
	Sparse bool
	// Data is the parameter's values, for hooks that read or update weights. Optional: without it
	// hooks see the right shape and dtype, and NaN.
	Data *tensor.Tensor
	// Device is where its gradient is. The zero value: where Data is, or else the CPU. A gradient of
	// bfloat16 beside Data of float32, or one on a GPU whose Data the CPU keeps, is allowed.
	Device tensor.Device
	// Attributes are set on the Python object when it is made, for hooks that ask for them:
	// param.is_shared_mp, param.param_group. Values as of cbridge.Convert.
	Attributes map[string]any

	attachments attachments
}

// GradientDevice returns where p's gradient is: see Device.
func (p *Parameter) GradientDevice() tensor.Device {
	device := p.Device
	if device.Type == 0 && p.Data != nil {
		device = p.Data.Device()
	}
	if device.IsCPU() {
		return tensor.Device{Type: tensor.CPU}
	}
	return device
}

// Attach returns what was attached under key; make makes it at the first use. It is closed with the
// parameter. For any goroutine; make may run several times at once, and the first result is kept.
func (p *Parameter) Attach(key any, make func() (Attachment, error)) (Attachment, error) {
	return p.attachments.attach(key, make)
}

// Close closes what was attached. The parameter may be used again. Idempotent.
func (p *Parameter) Close() { p.attachments.dropAll(false) }

// fits reports whether a gradient of that size in a buffer of that dtype can be p's: of its shape,
// or with the two parts of complex numbers in a last dimension more.
func (p *Parameter) fits(buffer tensor.DType, size []int64) bool {
	if slices.Equal(p.Shape, size) {
		return true
	}
	n := len(p.Shape)
	return p.DType.IsComplex() && buffer == p.DType.Real() && len(size) == n+1 && size[n] == 2 && slices.Equal(p.Shape, size[:n])
}
