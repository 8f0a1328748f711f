package pyhook

import "pyhook/cbridge"

// torchAPI holds the objects of torch and of _runtime/bridge.py that hook calls need, looked up once at
// the start.
type torchAPI struct {
	api           *cbridge.TorchAPI
	objects       []*Object
	newLayout     *Object
	parseValue    *Object
	requireFuture *Object
	newChain      *Object // pyhook._runtime.chain.Chain
	onStream      *Object // pyhook._device.on_stream.on_stream
}

func newTorchAPI(bridge *Object) (*torchAPI, error) {
	api, err := cbridge.NewTorchAPI()
	if err != nil {
		return nil, err
	}
	t := &torchAPI{api: api}
	if err := makeBucketType(bridge); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		slot **Object
		of   *Object
		name string
	}{
		{&t.newLayout, bridge, "BucketLayout"},
		{&t.parseValue, bridge, "parse_value"},
		{&t.requireFuture, bridge, "require_future"},
		{&t.newChain, bridge, "Chain"},
		{&t.onStream, bridge, "on_stream"},
	} {
		if *f.slot, err = f.of.Attr(f.name); err != nil {
			return nil, err
		}
		t.objects = append(t.objects, *f.slot)
	}
	return t, nil
}

func makeBucketType(bridge *Object) error {
	return bridge.With("BucketMethods", func(methods *Object) error {
		return bridge.With("Bucket", func(bucket *Object) error {
			return cbridge.MakeBucketType(methods, bucket)
		})
	})
}

// close drops the handles.
func (t *torchAPI) close() {
	t.api.Close()
	for _, o := range t.objects {
		o.Close()
	}
}
