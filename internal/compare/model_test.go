package compare

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLoadModel(t *testing.T) {
	t.Run("the built-in ones have the sizes of the published models", func(t *testing.T) {
		for name, want := range map[string][2]int64{"resnet50": {161, 25_557_032}, "bert-base": {199, 109_482_240},
			"gpt2": {148, 124_439_808}, "llama-7b-layer": {9, 202_383_360}, Digits: {6, 85_002}} {
			m, err := LoadModel(name)
			require.NoError(t, err)
			assert.Equal(t, want, [2]int64{int64(len(m.Parameters)), m.Elements()}, name)
		}
		assert.Len(t, ModelNames(), 5)
	})
	t.Run("a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "m.json")
		require.NoError(t, os.WriteFile(path, []byte(`{"name": "mine", "parameters": [{"name": "w", "shape": [10, 64]}, {"name": "s", "shape": []}]}`), 0o600))
		m, err := LoadModel(path)
		require.NoError(t, err)
		assert.Equal(t, "mine", m.Name)
		assert.EqualValues(t, 641, m.Elements())
	})
	t.Run("what is no model", func(t *testing.T) {
		_, err := LoadModel("resnet51")
		assert.ErrorIs(t, err, ErrModel)
		assert.ErrorContains(t, err, "resnet50, bert-base")
		_, err = LoadModel(filepath.Join(t.TempDir(), "none.json"))
		assert.ErrorIs(t, err, ErrModel)
		assert.ErrorIs(t, err, os.ErrNotExist)
		for text, want := range map[string]string{
			`{`:                  "write {",
			`[]`:                 "cannot unmarshal array",
			`{"parameters": []}`: "has no parameters",
			`{"params": []}`:     "unknown field",
			`{"parameters": [{"name": "w", "shape": [0]}]}`:                               "sizes are from 1 up",
			`{"parameters": [{"name": "w", "shape": [-3]}]}`:                              "sizes are from 1 up",
			`{"parameters": [{"name": "w", "shape": [1048576, 1048576, 4096]}]}`:          "at most 2^40",
			`{"parameters": [{"name": "w", "shape": [2]}, {"name": "w", "shape": [2]}]}`:  "is there twice",
			`{"parameters": [{"name": "w", "shape": [1e3, "x"]}]}`:                        "cannot unmarshal",
			`{"parameters": [{"name": "a", "shape": [1048576,1048576]}, {"shape": [1]}]}`: "more than 2^40",
		} {
			path := filepath.Join(t.TempDir(), "m.json")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			_, err := LoadModel(path)
			assert.ErrorIs(t, err, ErrModel, text)
			assert.ErrorContains(t, err, want, text)
		}
	})
}

func TestLayout(t *testing.T) {
	m, err := LoadModel("resnet50")
	require.NoError(t, err)
	buckets := layout(m.Parameters, 25)
	seen, next := 0, len(m.Parameters)
	for _, b := range buckets {
		elements := int64(0)
		for k, i := range b.Parameters {
			next--
			assert.Equal(t, next, i, "from the last to the first")
			assert.Equal(t, elements, b.Offsets[k])
			elements += m.Parameters[i].elements()
			seen++
		}
		assert.Equal(t, elements, b.Elements)
	}
	assert.Equal(t, len(m.Parameters), seen)
	assert.Len(t, buckets, 5)
	assert.EqualValues(t, 2_049_000, buckets[0].Elements, "the first reaches 1 MiB with the last layer")
}
