package main

import (
	"context"
	"strings"

	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// onDevice is what a rank has where the gradients are on a device. A trainer computes them there: here
// torch does, by a call for each few layers.
type onDevice struct {
	name  string
	stock *pyhook.Object
}

// String returns torch's name of the device.
func (d *onDevice) String() string {
	if d == nil {
		return "cpu"
	}
	return d.name
}

// backendFor returns the group's backends for the CPU and a device.
func backendFor(ctx context.Context, rt *pyhook.Runtime, device string) (string, error) {
	switch {
	case device == "":
		return "gloo", nil
	case device == "sim":
		module, err := rt.Import(ctx, "simdevice")
		module.Close()
		return "cpu:gloo,sim:simccl", err
	}
	return "cpu:gloo," + strings.Split(device, ":")[0] + ":nccl", nil
}

// newOnDevice puts the sources there.
func (r *rank) newOnDevice(name string) (*onDevice, error) {
	list, err := r.stock.Call("on_device", anys(r.sources), name)
	if err != nil {
		return nil, err
	}
	defer list.Close()
	for i := range r.sources {
		source, err := list.Call("__getitem__", i)
		if err != nil {
			return nil, err
		}
		r.sources[i].Close()
		if r.sources[i], err = tensorconv.FromPython(source); err != nil {
			return nil, err
		}
	}
	return &onDevice{name, r.stock}, nil
}

// newGradient makes memory for gradient i.
func (r *rank) newGradient(i int) (*tensor.Tensor, error) {
	if r.device == nil {
		return tensor.New(tensor.Float32, r.sources[i].Shape()...)
	}
	made, err := r.stock.Call("empty_like", r.sources[i])
	if err != nil {
		return nil, err
	}
	defer made.Close()
	return tensorconv.FromPython(made)
}

func (d *onDevice) synchronize() error {
	if d == nil {
		return nil
	}
	none, err := d.stock.Call("synchronize", d.name)
	none.Close()
	return err
}

// layers are gradients that one call computes.
type layers struct {
	first, after int
	backward     *pyhook.Object
}

// newLayers makes the calls, last layers first. A trainer has kernels of its own there: nothing of this
// is timed but what the device does.
func (s *reducerSide) newLayers() error {
	for after := len(s.sources); after > 0; {
		first, elements := after, int64(0)
		for first > 0 && elements < layerElements {
			first--
			elements += s.sources[first].Len()
		}
		call, err := s.device.stock.Call("backward_of", anys(s.sources[first:after]), s.gradients()[first:after])
		if err != nil {
			return err
		}
		s.closers = append(s.closers, call.Close)
		s.layers = append(s.layers, layers{first, after, call})
		after = first
	}
	return nil
}

// deviceStep is step with the host never waiting for the device.
func (s *reducerSide) deviceStep(ctx context.Context) error {
	for _, l := range s.layers {
		none, err := l.backward.Invoke(nil, nil)
		none.Close()
		if err != nil {
			return err
		}
		for i := l.after - 1; i >= l.first; i-- {
			if s.grads == nil {
				err = s.reducer.Ready(i)
			} else {
				err = s.reducer.ReadyFrom(i, s.grads[i])
			}
			if err != nil {
				return err
			}
		}
	}
	_, err := s.reducer.WaitStream(ctx)
	return err
}

// layerElements are those of the gradients that one call computes.
const layerElements = 1 << 20

func anys(tensors []*tensor.Tensor) []any {
	all := make([]any, len(tensors))
	for i, t := range tensors {
		all[i] = t
	}
	return all
}
