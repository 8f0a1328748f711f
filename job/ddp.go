package job

import (
	"bytes"
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/ddp"
)

// DDP is DistributedDataParallel's constructor: it checks that all ranks have the same parameters,
// gives every rank rank 0's values of those that have Data, and makes the Reducer. A collective: an
// error is one on every rank. opts.Group is j's where it is nil; without a Hook the gradients are
// averaged by Go. With opts.SkipVerify no values travel. The parameters stay the caller's. Close
// closes the Reducer, if the caller has not.
func (j *Job) DDP(ctx context.Context, params []*c10d.Parameter, opts ddp.Options) (*ddp.Reducer, error) {
	if opts.Group == nil {
		opts.Group = j.group
	}
	r, err := ddp.NewReducer(ctx, params, opts)
	if err != nil {
		return nil, j.errorf("wrapping the parameters: %w", err)
	}
	if !opts.SkipVerify {
		if err := broadcast(ctx, opts.Group, params); err != nil {
			r.Close()
			return nil, j.errorf("giving all ranks rank 0's values: %w", err)
		}
	}
	if err := j.owns(r.Close); err != nil {
		return nil, err
	}
	return r, nil
}

// broadcast gives every rank rank 0's values of the parameters that have some.
func broadcast(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter) error {
	have := make([]byte, len(params))
	var filled []*c10d.Parameter
	for i, p := range params {
		if p.Data != nil {
			have[i] = 1
			filled = append(filled, p)
		}
	}
	all, err := c10d.AllGatherBytes(ctx, group, have)
	if err != nil {
		return err
	}
	for rank := range all {
		for i, p := range params {
			if all[rank][i] != all[0][i] {
				return fmt.Errorf("%s has values (Parameter.Data) on one of the ranks 0 and %d and none on the other: give them on every rank or on none", p.Name, rank)
			}
		}
	}
	if !bytes.Contains(have, []byte{1}) {
		return nil
	}
	return ddp.BroadcastParameters(ctx, group, filled)
}
