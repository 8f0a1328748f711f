package simdevice_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tests/ranks"
)

// TestReducer_mutations takes the product's synchronisations on a device out, one at a time. With each
// of them something is wrong in a scenario of TestReducer_parity, every time:
//
//	what is taken out                          who notices
//	fill does not wait for the trainer         no hook
//	fill runs elsewhere                        no hook
//	end does not have the trainer wait         no hook
//	new does not have the trainer wait         no hook, views
//	new does not record the trainer's stream   allreduce, closed early
//	copy runs elsewhere                        fp16
//	divide runs elsewhere                      no hook, views
//	the finite check looks elsewhere           an infinity
//	the checksum looks elsewhere               late writes looked for
//	Wait does not wait                         allreduce, Wait
//	collectives are issued elsewhere           no hook
//	another stream waits for a collective      no hook
//	the hook runs elsewhere                    allreduce
//	nothing waits for the hook's future        fp16
//	a result with strides is copied elsewhere  a result with strides
//	the trainer's stream waits for callbacks   the trainer goes on
//	a chain's futures know no device           waits elsewhere
//	dropped works are not waited for           a dropped work
//	a checked hook's future knows no device    a dropped work, overlapped
//	NCCL's futures know no device              NCCL's futures, overlapped
//	staged collectives are not waited for      allreduce, unused found, own memory; on a group of
//	                                           the device alone
//	what a hook holds is not recorded          a state begun on the device
//	a state is kept and put back in no order   a state put back in place, a state that shows copies
//	the device is not waited for before        values of a stream, compared and broadcast; a state begun
//	                                           on another stream
//	a state's parameters are not waited for    a state of parameters
//	a state's stream is not waited for         a bucket without a Reducer
//
// What is wrong is other bits, an infinity that is not seen or one that is not there, or a stream that
// waits. testdata/mutations.py has how each is taken out. Where a loaded machine holds the host up until a
// late stream is done nothing is wrong, so what nobody noticed is tried again. Of the events and waits that the device's own
// torch makes (a future's, a collective's) TestDevice has the tests.
func TestReducer_mutations(t *testing.T) {
	t.Parallel() // it waits more than it computes
	found := map[string]map[string]string{}
	names := slices.Sorted(maps.Keys(mutations))
	for try := 0; try < 5 && len(names) > 0; try++ {
		for _, backend := range []string{both, alone} {
			taken := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return mutations[name].alone != (backend == alone) })
			if len(taken) == 0 {
				continue
			}
			job := run(t, "mutate", settings{Backend: backend, Taken: taken})
			for rank := range 2 {
				for name, scenarios := range ranks.Result[map[string]map[string]string](t, job, rank) {
					for scenario, wrong := range scenarios {
						if found[name] == nil {
							found[name] = map[string]string{}
						}
						found[name][scenario] += wrong
					}
				}
			}
		}
		names = slices.DeleteFunc(names, func(name string) bool {
			return !slices.Contains(slices.Collect(maps.Values(found[name])), "")
		})
	}
	require.Len(t, found, len(mutations))
	for name, scenarios := range found {
		t.Run(name, func(t *testing.T) {
			for scenario, wrong := range scenarios {
				noticed(t, scenario, wrong)
			}
		})
	}
}

// noticed is for what a scenario found wrong: not that what is taken out cannot be so.
func noticed(t *testing.T, scenario, wrong string) {
	t.Logf("%s: %.300s", scenario, wrong)
	assert.NotEmpty(t, wrong, scenario)
	assert.NotContains(t, wrong, "TypeError", scenario)
	assert.NotContains(t, wrong, "AttributeError", scenario)
}

// mutation says who notices what is taken out.
type mutation struct {
	by    []string // scenarios
	late  string   // the streams that are late; "": all
	alone bool     // on a group of the device alone
}

var mutations = map[string]mutation{
	"fill does not wait for the trainer":        {by: []string{"no hook"}, late: "default"},
	"fill runs elsewhere":                       {by: []string{"no hook"}},
	"end does not have the trainer wait":        {by: []string{"no hook"}},
	"new does not have the trainer wait":        {by: []string{"no hook, views"}},
	"new does not record the trainer's stream":  {by: []string{"allreduce, closed early"}, late: "default"},
	"copy runs elsewhere":                       {by: []string{"fp16"}},
	"divide runs elsewhere":                     {by: []string{"no hook, views"}},
	"the finite check looks elsewhere":          {by: []string{"an infinity"}},
	"the checksum looks elsewhere":              {by: []string{"late writes looked for"}},
	"Wait does not wait":                        {by: []string{"allreduce, Wait"}},
	"collectives are issued elsewhere":          {by: []string{"no hook"}, late: "default"},
	"another stream waits for a collective":     {by: []string{"no hook"}},
	"the hook runs elsewhere":                   {by: []string{"allreduce"}, late: "default"},
	"nothing waits for the hook's future":       {by: []string{"fp16"}},
	"a result with strides is copied elsewhere": {by: []string{"a result with strides"}},
	"the trainer's stream waits for callbacks":  {by: []string{goesOn}},
	"a chain's futures know no device":          {by: []string{"waits elsewhere"}},
	"dropped works are not waited for":          {by: []string{"a dropped work"}},
	"a checked hook's future knows no device":   {by: []string{"a dropped work, overlapped"}},
	"NCCL's futures know no device":             {by: []string{"NCCL's futures, overlapped"}},
	"staged collectives are not waited for":     {by: []string{"allreduce, unused found, own memory"}, alone: true},
	"what a hook holds is not recorded":         {by: []string{"a state begun on the device"}},
	"a state is kept and put back in no order":  {by: []string{"a state put back in place", "a state that shows copies"}},
	"the device is not waited for before":       {by: []string{comparedLate, broadcastLate, "a state begun on another stream"}},
	"a state's parameters are not waited for":   {by: []string{ofParameters}},
	"a state's stream is not waited for":        {by: []string{withoutReducer}},
}

func mutate(ctx context.Context, rank *ranks.Rank) error {
	t, err := join(ctx, rank)
	if err != nil {
		return err
	}
	helper, err := t.rt.Import(ctx, "mutations")
	if err != nil {
		return err
	}
	known, err := helper.CallValue("names")
	if err != nil {
		return err
	}
	for _, name := range known.([]any) {
		if _, ok := mutations[name.(string)]; !ok {
			return fmt.Errorf("nobody notices: %s", name)
		}
	}
	found := map[string]map[string]string{}
	for name, m := range sorted(mutations) {
		if !slices.Contains(t.Taken, name) {
			continue
		}
		found[name] = map[string]string{}
		// First as it is: what the scenario says then is no mutation's.
		for _, scenario := range m.by {
			if err := t.noticed(ctx, scenario); err != nil {
				return fmt.Errorf("%s, with nothing taken out: %w", scenario, err)
			}
		}
		if m.late != "" {
			if _, err := t.call("late", m.late); err != nil {
				return err
			}
		}
		undo, err := helper.Call("mutate", name)
		if err != nil {
			return err
		}
		for _, scenario := range m.by {
			if err := t.noticed(ctx, scenario); err != nil {
				found[name][scenario] = err.Error()
			} else {
				found[name][scenario] = ""
			}
		}
		if _, err := helper.CallValue("undo", undo); err != nil {
			return err
		}
		if _, err := t.call("late", "all"); err != nil {
			return err
		}
	}
	return rank.Report(found)
}

// The scenarios that are no way to train.
const (
	goesOn         = "the trainer goes on" // its stream, while a bucket is reduced
	comparedLate   = "values of a stream, compared"
	broadcastLate  = "values of a stream, broadcast"
	ofParameters   = "a state of parameters"
	withoutReducer = "a bucket without a Reducer"
)

func (t *trainer) noticed(ctx context.Context, name string) error {
	switch name {
	case goesOn:
		return t.goesOn(ctx)
	case comparedLate:
		return t.compared(ctx, scenario{stream: true})
	case broadcastLate:
		return t.broadcast(ctx, scenario{stream: true})
	case ofParameters:
		return t.stateOfLate(ctx, scenario{stream: true})
	case withoutReducer:
		return t.bare(ctx)
	}
	return t.train(ctx, name)
}

// goesOn completes the first bucket while the other rank does not: until the step's Wait the trainer's
// stream waits for none of the reduction, whose callbacks the Reducer has already run by then.
func (t *trainer) goesOn(ctx context.Context) error {
	g, err := t.begin(ctx, scenario{hook: "hooks:counted"})
	if err != nil {
		return err
	}
	defer g.close()
	hooks, err := t.rt.Import(ctx, "hooks")
	if err != nil {
		return err
	}
	defer hooks.Close()
	before, err := hooks.CallValue("calls")
	if err != nil {
		return err
	}
	var wrong error
	if t.rank == 1 {
		if _, err := t.call("meet"); err != nil {
			return err
		}
	}
	if _, err := t.call("produce", g.source, g.own, 0, 0, nil); err != nil {
		return err
	}
	for i := len(shapes) - 1; i >= 0; i-- {
		if err := g.mark(i, false); err != nil {
			return err
		}
		if t.rank == 1 || i != slices.Min(layout[0]) {
			continue
		}
		for after := before; after == before; time.Sleep(time.Millisecond) {
			if after, err = hooks.CallValue("calls"); err != nil {
				return err
			}
		}
		on, err := t.call("goes_on")
		if err != nil {
			return err
		}
		if on != true {
			wrong = errors.New("the trainer's stream waits for the reduction")
		}
		if _, err := t.call("meet"); err != nil {
			return err
		}
	}
	_, err = g.r.WaitStream(ctx)
	return errors.Join(wrong, err)
}
