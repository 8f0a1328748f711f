package gomlxddp_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/context/checkpoints"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
)

// TestOptimizer_checkpoint: rank 0 saves by GoMLX's checkpoints, and a run that goes on from there has
// the bits of the one that did not stop.
func TestOptimizer_checkpoint(t *testing.T) {
	const steps, saved = 7, 4
	folder := t.TempDir()
	open := func(ctx *mlctx.Context, immediate bool) (*checkpoints.Handler, error) {
		config := checkpoints.Build(ctx).Dir(folder).Keep(-1)
		if immediate {
			config = config.Immediate()
		}
		return config.Done()
	}
	run := func(group *memgroup.Group, from int, prepare func(n *net) error) (*net, error) {
		n := newNet(int64(1+group.Rank()), optimizers.Adam().Done(), true, func(n *net) { n.extra = normalized })
		n.trainer.SetContext(n.ctx.Checked(false))
		if err := prepare(n); err != nil {
			return nil, err
		}
		if err := n.attach(testutil.Soon(t), ddp.Options{Group: group}); err != nil {
			return nil, err
		}
		t.Cleanup(n.opt.Close)
		if group.Rank() == 0 && from == 0 {
			handler, err := open(n.ctx, false) // after Attach is soon enough
			if err != nil {
				return nil, err
			}
			train.EveryNSteps(n.loop, saved, "save", 100, func(*train.Loop, []*tensors.Tensor) error { return handler.Save() })
		}
		if err := n.run(samples(group.Rank(), from, steps-from), steps-from); err != nil {
			return nil, err
		}
		return n, n.opt.Digest(testutil.Soon(t))
	}
	whole := make([]map[string]any, 2)
	allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
		n, err := run(group, 0, func(*net) error { return nil })
		if err == nil {
			whole[group.Rank()] = trainedAndState(n.ctx)
		}
		return err
	}))
	assert.EqualValues(t, steps, whole[1]["/global_step"])
	read := mlctx.New()
	handler, err := open(read, false)
	require.NoError(t, err)
	names := []string{}
	for name := range handler.LoadedVariables() {
		names = append(names, name)
		assert.NotContains(t, name, "ddp_grads")
	}
	assert.Contains(t, names, "var:/AdamOptimizer/hidden/weights_1st_moment")
	for name, loads := range map[string]func(rank int, n *net) error{
		"loaded by all":     func(_ int, n *net) error { _, err := open(n.ctx, false); return err },
		"all of it at once": func(_ int, n *net) error { _, err := open(n.ctx, true); return err },
		"by rank 0 alone": func(rank int, n *net) error {
			if rank > 0 {
				return nil
			}
			_, err := open(n.ctx, false)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			allWell(t, memgroup.Run(2, func(group *memgroup.Group) error {
				n, err := run(group, saved, func(n *net) error { return loads(group.Rank(), n) })
				if err != nil {
					return err
				}
				if got := trainedAndState(n.ctx); !assert.ObjectsAreEqual(whole[group.Rank()], got) {
					return fmt.Errorf("rank %d ends with %v, and without a stop with %v", group.Rank(), got, whole[group.Rank()])
				}
				return nil
			}))
		})
	}
}

// trainedAndState are the values of the variables that are the same on every rank: not random numbers
// or running means.
func trainedAndState(ctx *mlctx.Context) map[string]any {
	all := values(ctx)
	for name := range all {
		if name == "/#rngState" || strings.HasPrefix(name, "/trainer") || strings.Contains(name, "/batch_normalization/mean") || strings.Contains(name, "/batch_normalization/variance") {
			delete(all, name)
		}
	}
	return all
}
