package ddp

import (
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/tensor"
)

// On the CPU a gradient is copied to its bucket when it is marked, by whoever marks it. On a device
// the launcher has all of a bucket's copied at once, before it calls the hook: one call of torch's
// for a bucket, on the communication stream, and none of the trainer's goroutines calls Python.

// filling is what a device has still to do for a gradient in its bucket.
type filling uint8

const (
	filled filling = iota // nothing: the trainer wrote it there, or it is on the CPU
	toCopy                // step.copyFrom's, else step.copyBack's, is to be copied there
	toZero                // it is to be zero
)

// deviceOf returns the memory of parameter i's gradient, if that is a device's; else nil.
func (r *Reducer) deviceOf(i int) c10d.DeviceMemory { return r.memories.of[i].device() }

// zeroGradient sets parameter i's gradient to zero; that of a sparse one is not in the bucket.
func (r *Reducer) zeroGradient(s *step, i int) error {
	view := r.viewLocked(i)
	if view == nil {
		return nil
	}
	if r.deviceOf(i) != nil {
		s.filling[i] = toZero
		return nil
	}
	return hostMemory{}.Zero(view)
}

// copyGradient copies step.copyBack's gradient of parameter i to its view; see copyInto.
func (r *Reducer) copyGradient(s *step, i int) error {
	s.scaled[i] = true
	if r.deviceOf(i) != nil {
		s.filling[i] = toCopy
		return nil
	}
	return r.copyInto(r.viewLocked(i), s.copyBack[i])
}

// copyInto copies grad to view, both on the CPU, and, without a hook, divides it as PyTorch does
// there: by a product with 1/size, a double before it is rounded to the dtype.
func (r *Reducer) copyInto(view, grad *tensor.Tensor) error {
	if r.sum {
		return tensor.Scale(view, grad, 1/float64(r.opts.Group.Size()))
	}
	return tensor.Copy(view, grad)
}

// fillBucket, by the launcher when the bucket is complete, does what is still to do.
func (r *Reducer) fillBucket(s *step, b *bucket) error {
	device := b.memory.device()
	if device == nil || b.sparse {
		return nil
	}
	var views, gradients, zeros []*tensor.Tensor
	for at, i := range b.params {
		switch s.filling[i] {
		case toCopy:
			from := s.copyFrom[i]
			if from == nil {
				from = s.copyBack[i]
			}
			views, gradients = append(views, b.views[at]), append(gradients, from)
		case toZero:
			zeros = append(zeros, b.views[at])
		}
	}
	factor := 1.0
	if r.sum {
		factor /= float64(r.opts.Group.Size())
	}
	return device.Fill(views, gradients, zeros, factor)
}

// checkDevices says whether the hook takes buckets where the gradients are.
func (r *Reducer) checkDevices() error {
	hook, ok := r.opts.Hook.(c10d.DeviceHook)
	if !ok {
		return nil
	}
	for _, device := range r.memories.devices {
		if device.Device().IsCPU() {
			continue
		}
		if err := hook.CheckDevice(device, r.params); err != nil {
			i := slices.IndexFunc(r.memories.of, func(m memory) bool { return m.device() == device })
			return fmt.Errorf("ddp, rank %d: %s is on %s: %w", r.opts.Group.Rank(), r.params[i].Name, device.Device(), err)
		}
	}
	return nil
}

// checkDevice says whether a tensor of the trainer's is where parameter i's gradient is.
func (r *Reducer) checkDevice(i int, grad *tensor.Tensor) error {
	want, is := r.params[i].GradientDevice(), grad.Device()
	if is == want || is.IsCPU() && want.IsCPU() {
		return nil
	}
	return fmt.Errorf("%w: %s for a gradient on %s: give one that is there, or set c10d.Parameter.Device", c10d.ErrDevice, grad, want)
}
