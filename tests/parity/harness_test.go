package parity

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file hold the comparison itself to account.

func TestADifferenceOfOneBitIsFoundAndNamed(t *testing.T) {
	c := hookCase{World: 2, Params: []caseParam{{"weight", []int64{2}, "float32"}, {"bias", []int64{1}, "float16"}}}
	want, got := t.TempDir(), t.TempDir()
	bytes := []byte{0, 0, 128, 63, 0, 0, 0, 64, 1, 2}
	for rank := range 2 {
		name := []string{"out.rank0.step0.bin", "out.rank1.step0.bin"}[rank]
		require.NoError(t, os.WriteFile(filepath.Join(want, name), bytes, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(got, name), bytes, 0o600))
	}
	assert.Empty(t, difference(c, "out", want, got, 1))
	assert.Contains(t, difference(c, "out", want, got, 2), "no such file", "a step that is missing is a difference")

	bytes[9] ^= 1
	require.NoError(t, os.WriteFile(filepath.Join(got, "out.rank1.step0.bin"), bytes, 0o600))
	assert.Equal(t, "rank 1, step 0: bias[0]: bytes 0103, want 0102", difference(c, "out", want, got, 1))
	require.NoError(t, os.WriteFile(filepath.Join(got, "out.rank1.step0.bin"), bytes[:8], 0o600))
	assert.Equal(t, "rank 1, step 0: 8 bytes, want 10", difference(c, "out", want, got, 1))
}

func TestAnExactVersionIsListedBeforeItsRelease(t *testing.T) {
	text := "boom"
	list := expectations{"case": {"2.14.1+debian": &text, "2.14": nil, "1.13": &text}}
	for _, test := range []struct {
		torch  string
		listed bool
	}{{"2.14.1+debian", true}, {"2.14.1+cu130", false}, {"1.13.0a0", true}, {"2.15.0", false}} {
		_, listed := list.of("case", test.torch)
		assert.Equal(t, test.listed, listed, test.torch)
	}
	_, listed := list.of("another", "1.13.0a0")
	assert.False(t, listed)
}

func TestPyTorchsErrorIsShownByItsInnermostType(t *testing.T) {
	for _, test := range []struct {
		name, kind, message, want string
	}{
		{"as raised", "ValueError", "no", "ValueError: no"},
		{"a qualified type", "torch.AcceleratorError", "CUDA error: old driver\nmore", "AcceleratorError: CUDA error: old driver"},
		{"without a text", "AssertionError", "", "AssertionError"},
		{"through C++", "RuntimeError", "IndexError: too many\n\nAt:\n  file.py(1): f", "IndexError: too many"},
		{"through two callbacks", "RuntimeError",
			"Got the following error when running the callback: RuntimeError: Got the following error when running the callback: RuntimeError: bad type", "RuntimeError: bad type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.want, verdict{Type: test.kind, Message: test.message}.short())
		})
	}
}

func TestColumnsAreInTheOrderOfVersions(t *testing.T) {
	assert.Less(t, numbers("1.13.0a0")[0], numbers("2.2.0")[0])
	assert.Equal(t, []int{2, 14, 1}, numbers("2.14.1+debian"))
	assert.Equal(t, []int{2, 15, 0}, numbers("2.15.0+cu132"))
}
