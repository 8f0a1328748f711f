package transport_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"pyhook/c10d"
	"pyhook/c10d/transport"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
)

// plainHook hides that its callbacks can be run by the caller: each bucket's future is
// waited for, whoever completes it.
type plainHook struct{ c10d.CommHook }

// order reports the digests of a hook that keeps something between body and callback:
// waited for bucket by bucket, and in the default order.
func order(ctx context.Context, r *ranks.Rank) error {
	rt, world, g, s, err := join(ctx, r, "socket", transport.Config{Timeout: time.Minute})
	if err != nil {
		return err
	}
	state := must(rt.NewState(ctx, "group_uses:Scale", nil, world))
	python := must(rt.NewHook(ctx, "group_uses:quantised", pyhook.HookConfig{State: state}))
	var digests []string
	for _, hook := range []c10d.CommHook{plainHook{python}, python} {
		digest, err := reducedBy(ctx, world, hook)
		if err != nil {
			return err
		}
		digests = append(digests, digest)
	}
	python.Close()
	state.Close()
	return errors.Join(r.Report(digests), leave(rt, world, g, s))
}

func reducedBy(ctx context.Context, world c10d.ProcessGroup, hook c10d.CommHook) (string, error) {
	var params []*c10d.Parameter
	for i := range 5 {
		params = append(params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: []int64{40}, DType: tensor.Float32})
	}
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: hook, BucketCapMB: 1e-6})
	if err != nil {
		return "", err
	}
	defer r.Close()
	digest := sha256.New()
	for step := range steps {
		for i := range params {
			data := must(tensor.Slice[float32](r.Gradient(i)))
			for k := range data {
				data[k] = float32(math.Sin(float64(k*(i+3)+step*17+world.Rank()*29))) * float32(i+1)
			}
			if err := r.Ready(i); err != nil {
				return "", err
			}
		}
		if _, err := r.Wait(ctx); err != nil {
			return "", err
		}
		for i := range params {
			fmt.Fprintln(digest, must(tensor.Slice[float32](r.Gradient(i))))
		}
	}
	return fmt.Sprintf("%d %s %x", len(r.Buckets()), r.Order(), digest.Sum(nil)), nil
}

func TestReducerWaitRunsCallbacksBeforeTheNextCallOverAnOwnTransport(t *testing.T) {
	got := job(t, 2, "order", nil)
	for rank := range 2 {
		digests := ranks.Result[[]string](t, got, rank)
		assert.Equal(t, digests[0], digests[1], "rank %d", rank)
		assert.Contains(t, digests[1], "5 serial ")
	}
}
