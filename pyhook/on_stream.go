package pyhook

import (
	"pyhook/c10d"
	"pyhook/tensor"
)

// onStream holds an OnStream of python/pyhook/_runtime/cuda_stream.py, which calls hooks on a CUDA stream.
type onStream struct {
	object *Object
	value  *Object // its method: asks a future that is done
	parse  *Object // its method: parse_value on the stream
}

func newOnStream(t *torchAPI, device tensor.Device, stream c10d.Stream) (*onStream, error) {
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
