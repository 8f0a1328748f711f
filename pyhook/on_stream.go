package pyhook

import "pyhook/c10d"

// onStream holds an OnStream of python/pyhook/_device/on_stream.py, which calls hooks on a device's stream.
type onStream struct {
	object *Object
	value  *Object // its method: asks a future that is done
	parse  *Object // its method: parse_value on the stream
}

// streamOf is of the stream that a bucket on a device is ordered by.
func streamOf(t *torchAPI, b *c10d.GradBucket) (*onStream, error) {
	var object *Object
	var err error
	if m, ok := b.Memory().(*deviceMemory); ok {
		object, err = m.object.Call("on_stream")
	} else {
		object, err = t.onStream.Invoke([]any{b.Buffer().Device().String(), uint64(b.Stream())}, nil)
	}
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
