package pyhook

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
)

// documented are the codes in the docstrings of _errors.py's classes.
func documented(t *testing.T, class string) []string {
	t.Helper()
	m, err := rt.Import(t.Context(), "pyhook._errors")
	require.NoError(t, err)
	defer m.Close()
	var text string
	require.NoError(t, m.With(class, func(c *Object) error {
		return c.With("__doc__", func(doc *Object) error {
			text, err = doc.Str()
			return err
		})
	}))
	_, list, found := strings.Cut(text, "Codes:")
	require.True(t, found)
	list, _, _ = strings.Cut(list, ".")
	var codes []string
	for _, match := range regexp.MustCompile("``(\\w+)``").FindAllStringSubmatch(list, -1) {
		codes = append(codes, match[1])
	}
	require.NotEmpty(t, codes)
	return codes
}

// kinds are the codes of _errors.py's classes, and what each is besides itself.
var kinds = map[string]map[string]c10d.Code{
	"HookContractError": {
		"none_result": c10d.ErrNoneResult, "not_future": c10d.ErrNotFuture, "none_value": c10d.ErrNotTensor,
		"not_tensor": c10d.ErrNotTensor, "list_value": c10d.ErrNotTensor, "short": c10d.ErrShort, "sparse": c10d.ErrSparse,
		"meta": c10d.ErrMeta, "device": c10d.ErrDevice, "layout": c10d.ErrLayout, "complex": c10d.ErrComplex,
		"nonfinite": c10d.ErrNonFinite, "result_timeout": c10d.ErrFutureFailed,
		"collective": c10d.ErrCollective,
	},
	"HookLoadError": {
		"bad_spec": c10d.ErrBadSpec, "no_module": c10d.ErrNoModule, "no_file": c10d.ErrNoModule,
		"no_attribute": c10d.ErrNoAttribute, "not_callable": c10d.ErrNotCallable, "arity": c10d.ErrArity,
		"async": c10d.ErrNeverFuture, "generator": c10d.ErrNeverFuture, "import_failed": c10d.ErrImportFailed,
		"bad_arguments": c10d.ErrBadArguments, "order": c10d.ErrOrder,
	},
	"GroupError": {
		"no_backend": c10d.ErrGroup, "already_initialized": c10d.ErrGroup,
		"not_initialized": c10d.ErrGroup, "timeout": c10d.ErrJoinTimeout, "rendezvous": c10d.ErrGroup, "init_failed": c10d.ErrGroup,
		"transport": c10d.ErrGroup,
		"rank":      c10d.ErrRank, "world_size": c10d.ErrWorldSize, "address": c10d.ErrAddress, "port_in_use": c10d.ErrPortInUse,
		"not_a_store": c10d.ErrNotAStore, "peer": c10d.ErrPeer, "torch_version": c10d.ErrTorchVersion, "protocol": c10d.ErrGroup,
	},
	"StateError": {
		"state_unsafe": c10d.ErrStateUnsafe, "state_corrupt": c10d.ErrStateCorrupt, "state_version": c10d.ErrStateVersion,
		"state_class": c10d.ErrStateClass, "state_rank": c10d.ErrStateRank, "state_immutable": c10d.ErrStateClass,
		"state_unsupported": c10d.ErrState, "state_failed": c10d.ErrState,
	},
}

func TestEachCodeOfPythonHasItsKind(t *testing.T) {
	bases := map[string][]c10d.Code{
		"HookContractError": {c10d.ErrBadResult, c10d.ErrNotFuture, c10d.ErrFutureFailed, c10d.ErrCollective},
		"HookLoadError":     {c10d.ErrLoad}, "GroupError": {c10d.ErrGroup}, "StateError": {c10d.ErrState},
	}
	for class, codes := range kinds {
		assert.ElementsMatch(t, slices.Collect(maps.Keys(codes)), documented(t, class), class)
		for code, kind := range codes {
			own := c10d.Code(code)
			assert.True(t, own.Known(), code)
			require.ErrorIs(t, own, kind, code)
			assert.True(t, slices.ContainsFunc(bases[class], func(base c10d.Code) bool { return own.Is(base) }), code)
		}
	}
}

func TestEachErrorOfThePythonPackageIsTyped(t *testing.T) {
	for _, class := range []string{"HookContractError", "HookLoadError", "GroupError"} {
		for code, kind := range kinds[class] {
			t.Run(class+" "+code, func(t *testing.T) {
				path := file(t, "raises.py", fmt.Sprintf("from pyhook._errors import %s\n"+
					"def hook(state, bucket): raise %s(%q, 'what it is', 'what to do')\n", class, class, code))
				h := load(t, path+":hook", HookConfig{})
				_, err := run(t, h, bucket(t, []float32{1}))
				saysAll(t, err, kind, h.Name(), 2)
				require.ErrorIs(t, err, c10d.Code(code))
				require.ErrorContains(t, err, "what it is\nhint: what to do")
				require.ErrorIs(t, err, Exception("pyhook._errors.HookError"))
			})
		}
	}
}

func TestEachKindHasAHint(t *testing.T) {
	for class, codes := range kinds {
		if class == "StateError" {
			continue // hooks give these a hint themselves
		}
		for code := range codes {
			assert.NotEmpty(t, hintFor(c10d.Code(code), ""), code)
		}
	}
	for _, kind := range []c10d.Code{c10d.ErrRaised, c10d.ErrFutureFailed, c10d.ErrClosed, c10d.ErrBucket, c10d.ErrGroup} {
		assert.NotEmpty(t, hintFor(kind, ""), "%v", kind)
	}
}

func TestPythonCommHook_RunHook_ownExceptionIsRaised(t *testing.T) {
	for hook, own := range map[string]c10d.Code{"raises:group": c10d.ErrJoinTimeout, "raises:state": c10d.ErrStateRank} {
		_, err := run(t, load(t, hook, HookConfig{}), bucket(t, []float32{1}))
		var e *c10d.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, c10d.ErrRaised, e.Code, hook)
		assert.ErrorIs(t, err, own, hook)
	}
}
