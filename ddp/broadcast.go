package ddp

import (
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// broadcastBytes is how much one broadcast of BroadcastParameters carries at
// most, but for a parameter that is larger: DistributedDataParallel's
// broadcast_bucket_size, 250 MiB.
const broadcastBytes = 250 << 20

// BroadcastParameters gives every rank rank 0's values (Parameter.Data) of the
// parameters: DistributedDataParallel's _sync_params_and_buffers. A collective;
// every rank must have the same list (VerifyParameters) and all values. On an
// error some values may be rank 0's already. Of values on a device the host first waits for all streams
// of the device, which may have begun to write them, and in the end until they are written.
func BroadcastParameters(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter) error {
	return BroadcastParametersFrom(ctx, group, 0, params)
}

// BroadcastParametersFrom is BroadcastParameters with the values of another
// rank, as after Reducer.Join.
func BroadcastParametersFrom(ctx context.Context, group c10d.ProcessGroup, root int, params []*c10d.Parameter) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	items := make([]Item, len(params))
	for i, p := range params {
		if p == nil || p.Data == nil {
			return fmt.Errorf("ddp, rank %d: broadcasting parameter %d: it has no Data", group.Rank(), i)
		}
		if p.Data.DType() != p.DType || p.Data.Len() != elements(p) {
			return fmt.Errorf("ddp, rank %d: broadcasting %s: %s %v has Data of %s", group.Rank(), p.Name, p.DType, p.Shape, p.Data)
		}
		items[i] = Item{Len: elements(p), DType: p.DType, Device: p.Data.Device()}
	}
	memories, err := memoriesOfValues(ctx, group, params, 0)
	if err != nil {
		return fmt.Errorf("ddp, rank %d: broadcasting: %w", group.Rank(), err)
	}
	defer memories.close()
	for _, indices := range coalesce(items, broadcastBytes) {
		if err := broadcastFlat(ctx, group, memories.of[indices[0]], root, params, indices); err != nil {
			return fmt.Errorf("ddp, rank %d: broadcasting %s and %d more from rank %d: %w",
				group.Rank(), params[indices[0]].Name, len(indices)-1, root, err)
		}
	}
	return memories.synchronize(ctx)
}

// coalesce puts items of one dtype and device together while they are at most limit bytes.
func coalesce(items []Item, limit int64) (groups [][]int) {
	type open struct {
		at    int // in groups
		bytes int64
	}
	current := map[bucketKey]*open{}
	for i, item := range items {
		bytes := item.Len * int64(item.DType.Size())
		key := bucketKey{item.DType, item.Device}
		o := current[key]
		if o == nil || o.bytes+bytes > limit {
			groups = append(groups, nil)
			o = &open{at: len(groups) - 1}
			current[key] = o
		}
		groups[o.at] = append(groups[o.at], i)
		o.bytes += bytes
	}
	return groups
}

// broadcastFlat broadcasts parameters of one dtype as one tensor.
func broadcastFlat(ctx context.Context, group c10d.ProcessGroup, memory memory, root int, params []*c10d.Parameter, indices []int) error {
	total := int64(0)
	for _, i := range indices {
		total += elements(params[i])
	}
	flat, err := memory.New(params[indices[0]].DType, total)
	if err != nil {
		return err
	}
	free := func() { flat.Close() }
	defer func() { free() }()
	parts, values, err := partsOf(flat, params, indices)
	if err != nil {
		return err
	}
	defer closeTensors(parts)
	if device := memory.device(); device != nil {
		group = device.Group()
		defer device.End()
	}
	if group.Rank() == root {
		err = memory.CopyAll(parts, values)
	}
	if err != nil {
		return err
	}
	future, err := group.Broadcast(ctx, flat, root)
	if err != nil {
		return err
	}
	defer future.Close()
	// If ctx ends first the collective goes on, and needs the memory.
	free = func() { whenDone(future, flat.Close) }
	if _, err := future.Wait(ctx); err != nil || group.Rank() == root {
		return err
	}
	return memory.CopyAll(values, parts)
}

// partsOf returns each parameter's part of flat, for the caller to close, and its values.
func partsOf(flat *tensor.Tensor, params []*c10d.Parameter, indices []int) (parts, values []*tensor.Tensor, err error) {
	offset := int64(0)
	for _, i := range indices {
		data := params[i].Data
		part, err := flat.View(offset, data.Shape(), nil)
		if err != nil {
			closeTensors(parts)
			return nil, nil, err
		}
		parts, values = append(parts, part), append(values, data)
		offset += data.Len()
	}
	return parts, values, nil
}

func closeTensors(list []*tensor.Tensor) {
	for _, t := range list {
		t.Close()
	}
}

// memoriesOfValues are those of the parameters' values; stream as Options.Stream.
func memoriesOfValues(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter, stream c10d.Stream) (memories, error) {
	values := make([]*c10d.Parameter, len(params))
	for i, p := range params {
		values[i] = &c10d.Parameter{}
		if p != nil && p.Data != nil {
			values[i].Name, values[i].Device = p.Name, p.Data.Device()
		}
	}
	return memoriesFor(ctx, group, values, stream, false)
}
