package ddp_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
)

// TestStepError_Format: %+v shows the traceback of a hook's exception, the other verbs the text.
func TestStepError_Format(t *testing.T) {
	for _, spec := range []string{"safety_hooks:raises", "safety_hooks:fails_later"} {
		t.Run(spec, func(t *testing.T) {
			r := guarded(t, spec, ddp.Options{})
			setAll(t, r, 4)
			_, err := r.Wait(testutil.Soon(t))
			var step *ddp.StepError
			require.ErrorAs(t, err, &step)
			var hook *c10d.Error
			require.ErrorAs(t, err, &hook)
			for _, e := range []error{step, hook} {
				for _, verb := range []string{"%v", "%s"} {
					assert.Equal(t, e.Error(), fmt.Sprintf(verb, e))
				}
				assert.Equal(t, fmt.Sprintf("%q", e.Error()), fmt.Sprintf("%q", e))
				long := fmt.Sprintf("%+v", e)
				assert.Regexp(t, `(?s)\ntraceback:\nTraceback .*(safety_hooks|__init__)\.py", line \d+, in \w+\n`, long)
				assert.Contains(t, long, e.Error()+"\n")
				assert.NotContains(t, e.Error(), "traceback:\n")
			}
		})
	}
}
