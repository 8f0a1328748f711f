package ddp_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/pyhook"
)

func TestNewReducer_options(t *testing.T) {
	var none *pyhook.PythonCommHook
	var nowhere *pyhook.TorchGroup
	for name, c := range map[string]struct {
		change func(*ddp.Options)
		says   string
	}{
		"order":            {func(o *ddp.Options) { o.Order = 7 }, "Options.Order is 7, which is none of its constants"},
		"layout":           {func(o *ddp.Options) { o.Layout = -1 }, "Options.Layout is -1, which is none"},
		"unused":           {func(o *ddp.Options) { o.Unused = 5 }, "Options.Unused is 5, which is none"},
		"agreement":        {func(o *ddp.Options) { o.Agreement = 9 }, "Options.Agreement is 9, which is none"},
		"no size":          {func(o *ddp.Options) { o.BucketCapMB = math.NaN() }, "Options.BucketCapMB is NaN: give a size in MiB"},
		"negative size":    {func(o *ddp.Options) { o.FirstBucketMB = -1 }, "Options.FirstBucketMB is -1"},
		"negative digests": {func(o *ddp.Options) { o.DigestEvery = -1 }, "Options.DigestEvery is -1"},
		"nil hook":         {func(o *ddp.Options) { o.Hook = none }, "Options.Hook is a nil *pyhook.PythonCommHook"},
		"nil group":        {func(o *ddp.Options) { o.Group = nowhere }, "the process group (Options.Group) is nil"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := ddp.Options{Group: memoryGroups(1)[0]}
			c.change(&opts)
			_, err := ddp.NewReducer(t.Context(), parameters([]int64{2}), opts)
			require.ErrorContains(t, err, c.says)
		})
	}

	t.Run("of one rank, every rank hears", func(t *testing.T) {
		for rank, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			opts := ddp.Options{Group: group}
			if group.Rank() == 1 {
				opts.Hook = none
			}
			_, err := ddp.NewReducer(t.Context(), parameters([]int64{2}), opts)
			return err
		}) {
			require.ErrorContains(t, err, []string{"rank 1 failed: ddp, rank 1: Options.Hook is a nil", "ddp, rank 1: Options.Hook is a nil"}[rank])
		}
	})
}
