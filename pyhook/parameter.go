package pyhook

import (
	"errors"
	"fmt"
	"sync"

	"pyhook/cbridge"
	"pyhook/tensor"
)

// Parameter is a trainable parameter of the model, as hooks see it in
// bucket.parameters(): one object for the life of the model, whichever bucket
// it is in.
type Parameter struct {
	Name  string
	Shape []int64
	DType tensor.DType
	// Sparse: its gradient is a SparseGradient, as of nn.Embedding(sparse=True).
	Sparse bool
	// Data is the parameter's values, for hooks that read or update weights.
	// Optional: without it hooks see the right shape and dtype, and NaN.
	Data *tensor.Tensor
	// Attributes are set on the Python object when it is made, for hooks that ask
	// for them: param.is_shared_mp, param.param_group. Values as of cbridge.Convert.
	Attributes map[string]any

	mu     sync.Mutex // as GradBucket.mu: never held while Python is called
	python *Object    // torch.nn.Parameter over Data
}

// Parameters returns the Python objects of the model's parameters: a list of
// nn.Parameter with names (python/pyhook/_parameters.py: Parameters), for states and
// hooks that are made with them. Buckets of these parameters have the same objects, so
// tables by id(param) and attributes that Go or Python sets on them stay right. The
// caller closes the result; the objects are the parameters' until Parameter.Close.
// The error is a *HookError.
func (rt *Runtime) Parameters(params ...*Parameter) (*Object, error) {
	list, err := rt.parameters(params)
	if err != nil {
		return nil, hookError("with these parameters", rt.Rank(), -1, ErrBadArguments, err)
	}
	return list, nil
}

func (rt *Runtime) parameters(params []*Parameter) (*Object, error) {
	names, objects := make([]string, len(params)), make([]any, len(params))
	for i, p := range params {
		if p == nil {
			return nil, fmt.Errorf("parameter %d is nil", i)
		}
		o, err := p.forPython(p.device())
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		names[i], objects[i] = p.Name, o
	}
	return rt.bridge.Call("name_parameters", names, objects)
}

// Python returns the parameter's Python object, as hooks see it. The caller closes
// the handle. With it a Parameter may be an argument of Runtime.NewState and of
// Object.Call, and gets attributes: SetAttr("is_shared_mp", true).
func (p *Parameter) Python() (*Object, error) {
	o, err := p.forPython(p.device())
	if err != nil {
		return nil, err
	}
	return o.Clone()
}

// device is where the Python object is made that is asked for before any bucket.
func (p *Parameter) device() tensor.Device {
	if p.Data != nil {
		return p.Data.Device()
	}
	return tensor.Device{}
}

func init() { cbridge.RegisterConversion((*Parameter).Python) }

// forPython returns the parameter's one Python object.
func (p *Parameter) forPython(device tensor.Device) (*Object, error) {
	p.mu.Lock()
	python := p.python
	p.mu.Unlock()
	if python != nil {
		return python, nil
	}
	module, err := cbridge.Import("pyhook._parameters")
	if err != nil {
		return nil, err
	}
	defer module.Close()
	var data any
	if p.Data != nil {
		data = p.Data
	} else if p.DType.Size() == 0 {
		return nil, errors.New("it has no DType")
	}
	attributes := p.Attributes
	if attributes == nil {
		attributes = map[string]any{}
	}
	made, err := module.Call("make_parameter", data, p.Shape, p.DType.String(), device.String(), attributes, p.Name)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.python == nil {
		p.python = made
	}
	python = p.python
	p.mu.Unlock()
	if python != made { // another bucket's call was first
		made.Close()
	}
	return python, nil
}

// Close drops the parameter's Python object. Idempotent.
func (p *Parameter) Close() {
	p.mu.Lock()
	python := p.python
	p.python = nil
	p.mu.Unlock()
	python.Close()
}
