package trace

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goodManifest is a recording of one step of one bucket on one of two ranks.
const goodManifest = `{
  "format": "pyhook-trace", "version": 1, "complete": true, "ended": "steps", "every": 1, "rank": 0, "world_size": 2,
  "backend": "gloo", "versions": {"pyhook": "0.1.0", "torch": "2.6.0", "python": "3.13.0", "numpy": null}, "threads": 1, "seed": "7",
  "hook": {"name": "allreduce_hook", "module": "m", "qualname": "q", "spec": "allreduce", "no_spec": null},
  "state": {"class": null, "spec": null, "no_spec": null, "attributes": {}, "arguments": {"rank": 2}, "groups": [{"attribute": "g", "ranks": [0, 1]}]},
  "device": "cpu",
  "parameters": [{"name": "w", "shape": [2, 2], "dtype": "float32"}, {"name": null, "shape": [], "dtype": "float32"}],
  "layouts": [{"dtype": "float32", "numel": 5, "gradients": [
    {"parameter": 0, "offset": 0, "length": 4, "shape": [2, 2]}, {"parameter": 1, "offset": 4, "length": 1, "shape": []}]}],
  "steps": [{"step": 0, "state": "s.state", "state_not_saved": null, "calls": [
    {"bucket": 0, "layout": 0, "is_last": true, "file": "b.safetensors",
     "result": {"dtype": "float32", "shape": [5], "stride": [1], "offset": 0, "own_buffer": true}}]}]
}`

// write writes files of a folder, whose folders it makes.
func write(t *testing.T, folder string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
}

// safetensors is a file with that header and body.
func safetensors(header, body string) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + body
}

var goodTensors = safetensors(`{"__metadata__":{"a":"b"},"input":{"dtype":"F32","shape":[5],"data_offsets":[0,20]},"result":{"dtype":"F32","shape":[5],"data_offsets":[20,40]}}`,
	strings.Repeat("i", 20)+strings.Repeat("r", 20))

func good(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	write(t, folder, map[string]string{"rank0/manifest.json": goodManifest, "rank0/b.safetensors": goodTensors, "rank0/s.state": "state"})
	return folder
}

func TestOpenRank(t *testing.T) {
	r, err := OpenRank(good(t), 0)
	require.NoError(t, err)
	defer r.Close()
	assert.Equal(t, 2, r.WorldSize)
	assert.Equal(t, json.Number("2"), r.State.Arguments["rank"])
	assert.Equal(t, []Group{{"g", []int{0, 1}}}, r.State.Groups)
	assert.Equal(t, "2.6.0", r.Versions.Torch)
	assert.Equal(t, []Step{{Step: 0, State: "s.state", Calls: []Call{{
		IsLast: true, File: "b.safetensors", Result: Result{DType: "float32", Shape: []int64{5}, Stride: []int64{1}, OwnBuffer: true},
	}}}}, r.Steps)
	state, err := r.ReadState("s.state")
	require.NoError(t, err)
	assert.Equal(t, "state", string(state))
	tensors, err := r.OpenTensors("b.safetensors")
	require.NoError(t, err)
	defer tensors.Close()
	data := make([]byte, 20)
	require.NoError(t, tensors.Read("result", data))
	assert.Equal(t, strings.Repeat("r", 20), string(data))
	assert.ErrorContains(t, tensors.Read("result", data[:8]), "has 20 bytes, and by the manifest 8")
	assert.ErrorContains(t, tensors.Read("random", data), `no tensor "random"`)
}

// TestOpenRank_Bad: what is wrong with a recording is an *Error that names the file.
func TestOpenRank_Bad(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"another version":             {`"version": 1`, `"version": 2`, "format version 2, and this pyhook reads version 1"},
		"another format":              {`pyhook-trace`, `other`, "not a manifest"},
		"cut short":                   {goodManifest, goodManifest[:300], "not JSON"},
		"empty":                       {goodManifest, "", "not JSON"},
		"a path that climbs":          {`"b.safetensors"`, `"../b.safetensors"`, "/steps/0/calls/0/file"},
		"an absolute path":            {`"b.safetensors"`, `"/etc/passwd"`, "/steps/0/calls/0/file"},
		"a state that climbs":         {`"s.state"`, `".."`, "/steps/0/state"},
		"a negative offset":           {`"offset": 4`, `"offset": -4`, "minimum"},
		"an enormous length":          {`"numel": 5`, `"numel": 1e300`, "maximum"},
		"a fraction":                  {`"numel": 5`, `"numel": 5.5`, "integer"},
		"a text for a number":         {`"numel": 5`, `"numel": "5"`, "integer"},
		"a field that is missing":     {`"layout": 0, `, ``, "layout"},
		"gradients that overlap":      {`"offset": 4`, `"offset": 3`, "does not begin where the one before it ends"},
		"a length of another shape":   {`"length": 4, "shape": [2, 2]`, `"length": 4, "shape": [2, 3]`, "not that of its shape"},
		"a buffer that is longer":     {`"numel": 5`, `"numel": 6`, "6 elements, and its gradients have 5"},
		"a parameter that is not":     {`"parameter": 1`, `"parameter": 2`, "parameter 2 of 2"},
		"a layout that is not":        {`"layout": 0`, `"layout": 1`, "layout 1 of 1"},
		"another bucket":              {`"bucket": 0`, `"bucket": 1`, "call 0 is of bucket 1"},
		"strides of other dimensions": {`"stride": [1]`, `"stride": [1, 1]`, "1 dimensions with 2 strides"},
		"another rank":                {`"rank": 0`, `"rank": 1`, "its manifest is that of rank 1"},
		"a rank beyond the world":     {`"rank": 0`, `"rank": 2`, "rank 2 of 2"},
		"a group beyond the world":    {`"ranks": [0, 1]`, `"ranks": [0, 2]`, "rank 2 of 2"},
		"a million threads":           {`"threads": 1`, `"threads": 1000000`, "maximum"},
		"a version that is a text":    {`"version": 1`, `"version": "1"`, "it is not a manifest"},
		"a parameter of another size": {`"shape": [2, 2], "dtype"`, `"shape": [1099511627776], "dtype"`, "parameter 0 has 1099511627776 elements and its gradient 4"},
		"a result that overflows":     {`"shape": [5], "stride": [1]`, `"shape": [1099511627776, 1099511627776], "stride": [1, 1]`, "a result of shape"},
		"an odd dtype":                {`"dtype": "float32", "numel"`, `"dtype": "__import__('os')", "numel"`, "pattern"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := good(t)
			require.Contains(t, goodManifest, c.old)
			write(t, folder, map[string]string{"rank0/manifest.json": strings.Replace(goodManifest, c.old, c.new, 1)})
			_, err := OpenRank(folder, 0)
			var ours *Error
			require.ErrorAs(t, err, &ours)
			assert.Contains(t, ours.Path, "rank0")
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestOpen(t *testing.T) {
	folder := good(t)
	_, err := Open(folder, nil)
	assert.ErrorContains(t, err, "rank 1 is missing; there are rank0")
	_, err = Open(filepath.Join(folder, "none"), nil)
	assert.ErrorContains(t, err, "no such folder")
	_, err = Open(t.TempDir(), nil)
	assert.ErrorContains(t, err, "holds no recording")
	second := strings.Replace(goodManifest, `"rank": 0`, `"rank": 1`, 1)
	write(t, folder, map[string]string{"rank1/manifest.json": second})
	both, err := Open(folder, nil)
	require.NoError(t, err)
	assert.Equal(t, []int{0}, Common(both))
	for _, r := range both {
		r.Close()
	}
	write(t, folder, map[string]string{"rank1/manifest.json": strings.Replace(second, "allreduce_hook", "fp16_hook", 1)})
	_, err = Open(folder, nil)
	assert.ErrorContains(t, err, "the ranks are of different jobs")
	_, err = Open(folder, []int{1, 2})
	assert.ErrorContains(t, err, "there is no rank 2: 2 ranks were recorded")
	require.NoError(t, os.Symlink("gone", filepath.Join(folder, "rank5")))
	_, err = Open(folder, []int{7})
	assert.ErrorContains(t, err, "there is no rank 7")
	_, err = Open(folder, []int{5})
	assert.ErrorContains(t, err, "there is no rank 5")
	write(t, folder, map[string]string{"rank1/manifest.json": strings.Replace(second, `"spec": "allreduce"`, `"spec": "m:hook(rank=1)"`, 1)})
	both, err = Open(folder, []int{0, 1})
	require.NoError(t, err, "each rank may have arguments of its own")
	for _, r := range both {
		r.Close()
	}
	alone, err := Open(folder, []int{1})
	require.NoError(t, err)
	alone[0].Close()
}

// TestOpenRank_Text: a manifest's texts are shown, and none of them commands the terminal.
func TestOpenRank_Text(t *testing.T) {
	folder := good(t)
	text := strings.Replace(goodManifest, `"allreduce_hook"`, `"a\u001b[2J\nerror: b"`, 1)
	write(t, folder, map[string]string{"rank0/manifest.json": strings.Replace(text, `"name": "w"`, `"name": "w\u009b"`, 1)})
	r, err := OpenRank(folder, 0)
	require.NoError(t, err)
	defer r.Close()
	assert.Equal(t, "a [2J error: b", r.Hook.Name)
	assert.Equal(t, "w ", r.Parameters[0].Name)
	assert.Equal(t, json.Number("2"), r.State.Arguments["rank"])
}

// TestManifest_BucketsOf: buckets with other gradients are others.
func TestManifest_BucketsOf(t *testing.T) {
	one, err := parseManifest("m", []byte(goodManifest))
	require.NoError(t, err)
	same, err := parseManifest("m", []byte(strings.Replace(goodManifest, `"rank": 0`, `"rank": 1`, 1)))
	require.NoError(t, err)
	other, err := parseManifest("m", []byte(strings.ReplaceAll(goodManifest, `"shape": [2, 2]`, `"shape": [4]`)))
	require.NoError(t, err)
	assert.Equal(t, one.BucketsOf(&one.Steps[0]), same.BucketsOf(&same.Steps[0]))
	assert.NotEqual(t, one.BucketsOf(&one.Steps[0]), other.BucketsOf(&other.Steps[0]))
}

func TestCommonOf(t *testing.T) {
	assert.Equal(t, []int{2, 4}, CommonOf([][]int{{0, 2, 4}, {2, 3, 4}, {2, 4}}))
	assert.Empty(t, CommonOf([][]int{{0}, {}}))
	assert.Empty(t, CommonOf(nil))
}

// TestRank_OpenTensors_Bad: a file that lies about itself is refused as it is opened.
func TestRank_OpenTensors_Bad(t *testing.T) {
	header := func(text string) string { return safetensors(text, strings.Repeat("x", 20)) }
	for name, c := range map[string]struct{ file, want string }{
		"empty":                    {"", "0 bytes"},
		"shorter than its header":  {"\x10\x00\x00\x00\x00\x00\x00\x00{}", "a header of 16 bytes in a file of 10"},
		"an enormous header":       {"\xff\xff\xff\xff\xff\xff\xff\xff{}", "a header of 18446744073709551615 bytes"},
		"cut short":                {goodTensors[:len(goodTensors)-1], ""},
		"more than its tensors":    {goodTensors + "x", "its tensors end at"},
		"no JSON":                  {header("nonsense"), "invalid character"},
		"an unknown dtype":         {header(`{"a":{"dtype":"X9","shape":[5],"data_offsets":[0,20]}}`), `dtype "X9"`},
		"a shape that is too long": {header(`{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,20]}}`), "shape [6] of F32 in 20 bytes"},
		"a shape that overflows":   {header(`{"a":{"dtype":"F32","shape":[4611686018427387904,4,5],"data_offsets":[0,20]}}`), "shape"},
		"a negative shape":         {header(`{"a":{"dtype":"F32","shape":[-5,-1],"data_offsets":[0,20]}}`), "shape [-5 -1]"},
		"offsets beyond the file":  {header(`{"a":{"dtype":"U8","shape":[40],"data_offsets":[0,40]}}`), "bytes [0 40] of 20"},
		"offsets backwards":        {header(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[9,3]}}`), "bytes [9 3]"},
		"tensors that overlap":     {header(`{"a":{"dtype":"U8","shape":[20],"data_offsets":[0,20]},"b":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}}`), "do not lie one after another"},
		"a hole":                   {header(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[16,20]}}`), "do not lie one after another"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := good(t)
			write(t, folder, map[string]string{"rank0/b.safetensors": c.file})
			r, err := OpenRank(folder, 0)
			require.NoError(t, err)
			defer r.Close()
			_, err = r.OpenTensors("b.safetensors")
			var ours *Error
			require.ErrorAs(t, err, &ours)
			if name != "cut short" {
				assert.ErrorContains(t, err, c.want)
			}
			assert.ErrorContains(t, err, "b.safetensors: it is not a safetensors file, or was cut short or changed")
		})
	}
}

func TestRank_OpenTensors_Files(t *testing.T) {
	folder := good(t)
	r, err := OpenRank(folder, 0)
	require.NoError(t, err)
	defer r.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(goodTensors), 0o600))
	t.Run("a link out of the folder is refused", func(t *testing.T) {
		require.NoError(t, os.Symlink(secret, filepath.Join(folder, "rank0", "link")))
		_, err := r.OpenTensors("link")
		assert.ErrorContains(t, err, "escapes")
		_, err = r.OpenTensors("../rank0/b.safetensors")
		assert.ErrorContains(t, err, "escapes")
	})
	t.Run("a folder, a pipe, nothing", func(t *testing.T) {
		require.NoError(t, os.Mkdir(filepath.Join(folder, "rank0", "folder"), 0o700))
		_, err := r.OpenTensors("folder")
		assert.ErrorContains(t, err, "not a regular file")
		require.NoError(t, syscall.Mkfifo(filepath.Join(folder, "rank0", "pipe"), 0o600))
		_, err = r.OpenTensors("pipe") // Open of a pipe waits for who writes to it
		assert.ErrorContains(t, err, "not a regular file")
		_, err = r.OpenTensors("gone")
		assert.ErrorContains(t, err, "the file is missing")
	})
	t.Run("200 GB are not read", func(t *testing.T) {
		const size = 200 << 30
		text := safetensors(`{"input":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"ballast":{"dtype":"U8","shape":[214748364800],"data_offsets":[5,214748364805]}}`, "input")
		path := filepath.Join(folder, "rank0", "large")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		if err := os.Truncate(path, int64(len(text))+size); err != nil {
			t.Skip("this file system has no files of 200 GB:", err)
		}
		tensors, err := r.OpenTensors("large")
		require.NoError(t, err)
		defer tensors.Close()
		data := make([]byte, 5)
		require.NoError(t, tensors.Read("input", data))
		assert.Equal(t, "input", string(data))
	})
}

func TestResult_MisreadByDDP(t *testing.T) {
	for _, c := range []struct {
		shape, stride []int64
		offset        int64
		own, want     bool
	}{
		{[]int64{6}, []int64{1}, 0, false, false},
		{[]int64{6}, []int64{1}, 3, false, true},
		{[]int64{6}, []int64{2}, 0, false, true},
		{[]int64{2, 3}, []int64{3, 1}, 0, false, false},
		{[]int64{2, 3}, []int64{1, 2}, 0, false, true},
		{[]int64{1, 3}, []int64{9, 1}, 0, false, false}, // a dimension of one has no stride
		{[]int64{6}, []int64{1}, 3, true, false},
		{[]int64{0}, []int64{5}, 3, false, false},
	} {
		r := Result{Shape: c.shape, Stride: c.stride, Offset: c.offset, OwnBuffer: c.own}
		assert.Equal(t, c.want, r.MisreadByDDP(), "%+v", r)
	}
}

// FuzzOpenTensors: any bytes are tensors inside the file, or an error.
func FuzzOpenTensors(f *testing.F) {
	f.Add([]byte(goodTensors))
	f.Add([]byte(safetensors(`{"a":{"dtype":"C64","shape":[],"data_offsets":[0,8]}}`, "12345678")))
	f.Fuzz(func(t *testing.T, data []byte) {
		folder := t.TempDir()
		write(t, folder, map[string]string{"rank0/manifest.json": goodManifest, "rank0/x": string(data)})
		r, err := OpenRank(folder, 0)
		require.NoError(t, err)
		defer r.Close()
		tensors, err := r.OpenTensors("x")
		if err != nil {
			return
		}
		defer tensors.Close()
		total := int64(0)
		for name := range tensors.entries {
			into := make([]byte, tensors.Length(name))
			total += int64(len(into))
			require.NoError(t, tensors.Read(name, into))
		}
		require.LessOrEqual(t, total, int64(len(data)))
	})
}

// FuzzManifest: any text is a manifest whose numbers fit each other, or an error.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(goodManifest))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest("m", data)
		if err != nil {
			return
		}
		for _, s := range m.Steps {
			for _, c := range s.Calls {
				if c.Skipped == "" {
					require.Less(t, c.Layout, len(m.Layouts))
					_ = c.Result.MisreadByDDP()
				}
			}
		}
	})
}
