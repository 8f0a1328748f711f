package pyhook

import (
	"pyhook/tensor"
)

// Stream is a stream of the trainer's on a GPU: a cudaStream_t (hipStream_t); 0
// is the device's default one. The trainer's library must use the device's
// primary context, as the CUDA runtime does and torch.
//
// A bucket whose buffer is on a GPU is ordered by it, and by nothing else, as
// PyTorch's reducer orders its own. The hook is called with the stream current:
// what it enqueues comes after whatever wrote the gradients there before
// RunHook. When the future of RunHook is done, the result may not have been
// computed yet, but what is enqueued on the stream after that comes after it:
// ParseHookResult and the trainer's optimizer need not wait. To read a result
// on the CPU, synchronise the stream first. Close what ParseHookResult returned
// when the work that reads it is enqueued.
//
// Only a Python hook takes such a bucket: Go's own hooks, package ddp and
// package worker have theirs on the CPU.
//
// Experimental: not yet run on a GPU. tests/gpu/run.sh of the repository does.
type Stream uintptr

// onStream is python/pyhook/_device.py's OnStream.
type onStream struct {
	object *Object
	value  *Object // its method: asks a future that is done
	parse  *Object // its method: parse_value on the stream
}

func newOnStream(t *tools, device tensor.Device, stream Stream) (*onStream, error) {
	object, err := t.onStream.Invoke([]any{device.String(), uint64(stream)}, nil)
	if err != nil {
		return nil, err
	}
	return wrapOnStream(object)
}

// wrapOnStream takes object over.
func wrapOnStream(object *Object) (*onStream, error) {
	s := &onStream{object: object}
	var err error
	if s.value, err = object.Attr("value"); err == nil {
		s.parse, err = object.Attr("parse_value")
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// around makes a callable that calls hook on the stream.
func (s *onStream) around(hook *Object) (*Object, error) { return s.object.Call("around", hook) }

func (s *onStream) close() {
	if s != nil {
		s.object.Close()
		s.value.Close()
		s.parse.Close()
	}
}
