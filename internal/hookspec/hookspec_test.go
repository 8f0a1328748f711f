package hookspec

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStateArgumentsAreJSON(t *testing.T) {
	s := Spec{StateArgs: []string{"a=2", "b=2.5", `c="x=y"`, "d=true", "e=null", "f=[1,2.0]", `g={"k":1}`}}
	args, err := s.Args()
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"a": int64(2), "b": 2.5, "c": "x=y", "d": true, "e": nil,
		"f": []any{int64(1), 2.0}, "g": map[string]any{"k": int64(1)}}, args)
}

func TestBadStateArgumentsSayWhatToWrite(t *testing.T) {
	for text, want := range map[string]string{
		"novalue": "write key=JSON",
		"=1":      "write key=JSON",
		"k=text":  `k='"text"'`,
		"k=1 2":   "more than one JSON value",
		"k=":      "is not JSON",
	} {
		_, err := (&Spec{StateArgs: []string{text}}).Args()
		assert.ErrorContains(t, err, want, text)
	}
}

func TestStatefulHooksOfPyTorchGetTheirStateUnlessOneIsNamed(t *testing.T) {
	const shipped = "torch.distributed.algorithms.ddp_comm_hooks."
	for hook, want := range map[string]Spec{
		"powersgd":               {State: "powersgd", StateArgs: []string{"start_powerSGD_iter=2"}},
		"fp16_wrapper(powersgd)": {State: "powersgd", StateArgs: []string{"start_powerSGD_iter=2"}},
		shipped + "powerSGD_hook:batched_powerSGD_hook": {State: "powersgd", StateArgs: []string{"start_powerSGD_iter=2"}},
		"post_localsgd":               {State: "post_localsgd", StateArgs: []string{"start_localSGD_iter=100"}},
		"allreduce":                   {},
		"make.py:make(rank=2)":        {},
		"mine:wrap(powersgd, rank=2)": {State: "powersgd", StateArgs: []string{"start_powerSGD_iter=2"}},
		"my.py:powersgd_like":         {}, // a user's own hook has a state of its own
		"mine:powersgd":               {},
	} {
		want.Hook = hook
		assert.Equal(t, want, Spec{Hook: hook}.WithDefaults(), hook)
	}
	given := Spec{Hook: "powersgd", StateArgs: []string{"start_powerSGD_iter=7"}}
	assert.Equal(t, given.StateArgs, given.WithDefaults().StateArgs)
	more := Spec{Hook: "powersgd", StateArgs: []string{"matrix_approximation_rank=2"}}
	assert.Equal(t, []string{"matrix_approximation_rank=2", "start_powerSGD_iter=2"}, more.WithDefaults().StateArgs)
	named := Spec{Hook: "powersgd", State: "mine:State"}
	assert.Equal(t, named, named.WithDefaults())
}
