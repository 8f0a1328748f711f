package ddp

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/tests/ranks"
)

// Sparse gradients (nn.Embedding) between dense ones against stock DDP: indices
// and values bit for bit, and DDP's logging data.
func TestSparseGradientsAreStockDDPsBitForBit(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	folder := t.TempDir()
	cases := writeSparsePlan(t, folder)
	runStock(t, interpreter.Executable, "sparse.py", folder)
	for world, list := range cases {
		ranks.RunOptions(t, ranks.Options{N: world, Case: "sparse", Args: batch[*sparseCase]{interpreter.Executable, folder, list}, Timeout: 5 * time.Minute})
		for _, c := range list {
			t.Run(c.Name, func(t *testing.T) {
				for rank := range world {
					compareSparse(t, folder, c, rank)
				}
			})
		}
	}
}

func compareSparse(t *testing.T, folder string, c *sparseCase, rank int) {
	file := func(side, kind string) []byte {
		data, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("%s.%s.rank%d.%s", side, c.Name, rank, kind)))
		require.NoError(t, err)
		return data
	}
	var stock sparseFacts
	var got sparseReport
	require.NoError(t, json.Unmarshal(file("stock", "json"), &stock))
	require.NoError(t, json.Unmarshal(file("go", "json"), &got))
	if c.Hook == "fp16" { // torch cannot add sparse gradients of half precision, Debian's gloo no dense ones
		says, hint := "\"cadd_sparse\" not implemented for 'Half'", "hint: the bucket's buffer is a sparse gradient"
		if strings.Contains(stock.Error, "Invalid scalar type") {
			says, hint = "Invalid scalar type", "hint: this build of the backend cannot"
		}
		assert.Contains(t, stock.Error, says)
		assert.Contains(t, got.Error, says)
		assert.Contains(t, got.Error, hint)
		assert.True(t, got.Logging.HasError)
		return
	}
	require.Empty(t, stock.Error)
	want := file("stock", "bin")
	require.NotEmpty(t, want)
	assert.Equal(t, want, file("go", "bin"), "rank %d: indices and values", rank)
	compareLogging(t, c, stock, got)
}

// stockText are the fields that stock DDP has as text, by what Go's are.
func stockText(t *testing.T, got sparseReport) map[string]string {
	t.Helper()
	join := func(sizes []int64) string {
		var list []string
		for _, size := range sizes {
			list = append(list, strconv.FormatInt(size, 10))
		}
		return strings.Join(list, ", ")
	}
	var buckets []string
	for _, indices := range got.Logging.RebuiltPerBucketParamIndices {
		buckets = append(buckets, strings.Trim(fmt.Sprint(indices), "[]"))
	}
	names := map[string]string{"float32": "float", "float64": "double"}
	var dtypes []string
	for _, name := range got.Logging.DTypes {
		dtypes = append(dtypes, names[name])
	}
	slices.Sort(dtypes)
	return map[string]string{
		"backend_name": got.Logging.BackendName, "dtypes": strings.Join(dtypes, ", "), "bucket_sizes": join(got.Logging.BucketSizes),
		"rebuilt_bucket_sizes": join(got.Logging.RebuiltBucketSizes), "rebuilt_per_bucket_param_indices": strings.Join(buckets, ", "),
	}
}

func compareLogging(t *testing.T, c *sparseCase, stock sparseFacts, got sparseReport) {
	l := got.Logging
	for name, value := range stockText(t, got) {
		text, _ := stock.Logging[name].(string)
		assert.Equal(t, text, value, name)
	}
	hook, _ := stock.Logging["comm_hook"].(string)
	assert.True(t, strings.HasSuffix(l.CommHook, hook), "%s: %s", l.CommHook, hook)
	assert.Equal(t, hook == "", l.CommHook == "")
	number := func(b bool) int64 {
		if b {
			return 1
		}
		return 0
	}
	values := map[string]int64{
		"world_size": int64(l.Size), "rank": int64(l.Rank), "num_parameter_tensors": int64(l.NumParameterTensors),
		"total_parameter_size_bytes": l.TotalParameterSizeBytes, "bucket_cap_bytes": l.BucketCapBytes,
		"find_unused_parameters": number(l.FindUnusedParameters), "static_graph": number(l.StaticGraph),
		"gradient_as_bucket_view": number(l.GradientAsBucketView), "has_rebuilt_buckets": number(l.HasRebuiltBuckets),
		"has_error": number(l.HasError),
	}
	if !strings.HasPrefix(stock.Torch, "1.") && !strings.HasPrefix(stock.Torch, "2.6.") { // there it adds up over the steps
		values["unused_parameter_size"] = l.UnusedParameterSize
	}
	if c.NoSync < 0 {
		values["iteration"] = int64(l.Iteration) - 1 // stock DDP's is that of the last forward pass
	}
	for name, value := range values {
		want, _ := stock.Logging[name].(float64)
		assert.Equal(t, int64(want), value, name)
	}
	assert.Positive(t, l.BackwardComputeTime)
	assert.Positive(t, l.BackwardCommTime)
	assert.Positive(t, l.AvgBackwardCommTime)
	assert.LessOrEqual(t, l.BackwardComputeCommOverlapTime, min(l.BackwardComputeTime, l.BackwardCommTime))
	assert.Equal(t, l.BackwardCommTime, l.BackwardCommTimeEnd-l.BackwardCommTimeStart)
}
