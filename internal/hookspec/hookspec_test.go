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

func TestPowerSGDGetsItsStateUnlessOneIsNamed(t *testing.T) {
	for hook, want := range map[string]string{
		"powersgd": "powersgd", "fp16_wrapper(powersgd)": "powersgd", "allreduce": "", "my.py:powersgd_like": "powersgd",
		"torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook:powerSGD_hook": "powersgd",
	} {
		if hook == "my.py:powersgd_like" {
			want = "" // a user's own hook has a state of its own
		}
		args := map[string]any{}
		assert.Equal(t, want, Spec{Hook: hook}.withDefaults(args).State, hook)
		if want != "" {
			assert.Equal(t, 2, args["start_powerSGD_iter"])
		}
	}
	args := map[string]any{"start_powerSGD_iter": int64(7)}
	Spec{Hook: "powersgd"}.withDefaults(args)
	assert.Equal(t, int64(7), args["start_powerSGD_iter"])
	assert.Equal(t, "mine:State", Spec{Hook: "powersgd", State: "mine:State"}.withDefaults(args).State)
}
