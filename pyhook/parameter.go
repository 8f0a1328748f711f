package pyhook

import (
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/tensor"
)

// Parameters returns the Python objects of the model's parameters: a list of
// nn.Parameter with names (python/pyhook/_runtime/parameters.py: Parameters), for states and
// hooks that are made with them. Buckets of these parameters have the same objects, so
// tables by id(param) and attributes that Go or Python sets on them stay right. The
// caller closes the result; the objects are the parameters' until c10d.Parameter.Close.
// The error is a *c10d.Error.
func (rt *Runtime) Parameters(params ...*c10d.Parameter) (*Object, error) {
	list, err := rt.parameters(params)
	if err != nil {
		return nil, hookError("with these parameters", rt.Rank(), -1, c10d.ErrBadArguments, err)
	}
	return list, nil
}

// SynchronizeValues has the host wait for all streams of the devices that the parameters' values are on:
// what reads or writes them next is in the order of none of them. It is for values that the trainer's
// stream may have begun to write; Parameters does it, and a *c10d.Parameter as an argument. The error
// is the device's own.
func SynchronizeValues(params ...*c10d.Parameter) error {
	var values []any
	for _, p := range params {
		if p != nil && p.Data != nil && !p.Data.Device().IsCPU() {
			values = append(values, p.Data)
		}
	}
	if values == nil {
		return nil
	}
	_, err := moduleValue("pyhook._device.streams", "synchronize_of", values)
	return err
}

func (rt *Runtime) parameters(params []*c10d.Parameter) (*Object, error) {
	names, objects := make([]string, len(params)), make([]any, len(params))
	for i, p := range params {
		if p == nil {
			return nil, fmt.Errorf("parameter %d is nil", i)
		}
		o, err := pythonParameter(p, deviceOf(p))
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		names[i], objects[i] = p.Name, o
	}
	if err := SynchronizeValues(params...); err != nil { // a state that is made with them may read them
		return nil, err
	}
	return rt.bridge.Call("Parameters", objects, names)
}

// ParameterObject returns the parameter's Python object, as hooks see it. The caller closes the
// handle. With it a Parameter may be an argument of Runtime.NewState and of Object.Call, and gets
// attributes: SetAttr("is_shared_mp", true).
func ParameterObject(p *c10d.Parameter) (*Object, error) {
	if p == nil {
		return nil, errors.New("the *c10d.Parameter is nil")
	}
	o, err := pythonParameter(p, deviceOf(p))
	if err != nil {
		return nil, err
	}
	if err := SynchronizeValues(p); err != nil {
		return nil, err
	}
	return o.Clone()
}

func init() { cbridge.RegisterConversion(ParameterObject) }

// deviceOf is where the Python object is made that is asked for before any bucket.
func deviceOf(p *c10d.Parameter) tensor.Device {
	if p.Data != nil {
		return p.Data.Device()
	}
	return p.GradientDevice()
}

// pythonParameter returns the parameter's one Python object, which belongs to the parameter.
func pythonParameter(p *c10d.Parameter, device tensor.Device) (*Object, error) {
	object, err := p.Attach(pythonKey, func() (c10d.Attachment, error) {
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
		return callModule("pyhook._runtime.parameters", "make_parameter", data, p.Shape, p.DType.String(), device.String(), attributes, p.Name)
	})
	if err != nil {
		return nil, err
	}
	return object.(*Object), nil
}
