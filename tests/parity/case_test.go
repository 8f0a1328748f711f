package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hookCase is a file of oracle/cases; oracle/README.md says what the keys mean.
type hookCase struct {
	Name        string         `json:"-"`
	Description string         `json:"description"`
	World       int            `json:"world"`
	Steps       int            `json:"steps"`
	Mode        string         `json:"mode"`
	Hook        string         `json:"hook"`
	HookKwargs  map[string]any `json:"hook_kwargs"`
	State       any            `json:"state"`
	Serial      bool           `json:"serial"`
	Params      []caseParam    `json:"params"`
	Buckets     [][]int        `json:"buckets"`
	Optimizer   struct {
		Class  string         `json:"class"`
		Kwargs map[string]any `json:"kwargs"`
	} `json:"optimizer"`
}

type caseParam struct {
	Name  string  `json:"name"`
	Shape []int64 `json:"shape"`
	DType string  `json:"dtype"`
}

func (p caseParam) len() int64 {
	n := int64(1)
	for _, size := range p.Shape {
		n *= size
	}
	return n
}

func loadCase(path string) (hookCase, error) {
	c := hookCase{World: 2, Steps: 3, Mode: "reducer", Name: strings.TrimSuffix(filepath.Base(path), ".json")}
	data, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // a rank of 2 must not become 2.0
	if err := decoder.Decode(&c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	for i := range c.Params {
		if c.Params[i].DType == "" {
			c.Params[i].DType = "float32"
		}
	}
	c.State = plain(c.State)
	c.HookKwargs, _ = plain(c.HookKwargs).(map[string]any)
	c.Optimizer.Kwargs, _ = plain(c.Optimizer.Kwargs).(map[string]any)
	return c, nil
}

// loadCases loads all cases and says where each is.
func loadCases(t *testing.T) (cases []hookCase, files map[string]string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("oracle", "cases", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	files = map[string]string{}
	for _, path := range paths {
		c, err := loadCase(path)
		require.NoError(t, err)
		cases = append(cases, c)
		files[c.Name] = path
	}
	return cases, files
}

// plain turns JSON's numbers into Go's.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}

// needsDDP: the hook takes a DistributedDataParallel and works on its Reducer,
// so it cannot run without one, from Go or otherwise.
func (c hookCase) needsDDP() bool { return c.Mode != "reducer" && c.Mode != "optimizer" }

// complex parameters have real buckets of twice the length, as in PyTorch from
// 2.14 on.
func (c hookCase) complex() bool { return strings.HasPrefix(c.Params[0].DType, "complex") }

// setUpByDDP are the hooks that no case names, since DDP itself installs them.
var setUpByDDP = map[string]struct{ module, name string }{
	"zero":                  {hooksPackage + ".ddp_zero_hook", "hook_with_zero_step"},
	"zero_interleaved":      {hooksPackage + ".ddp_zero_hook", "hook_with_zero_step_interleaved"},
	"optimizer_in_backward": {hooksPackage + ".optimizer_overlap_hooks", "_apply_optim_in_backward_hook"},
	"mixed_precision":       {hooksPackage + ".mixed_precision_hooks", "_reducer_allreduce_and_upcast_hook"},
}

const hooksPackage = "torch.distributed.algorithms.ddp_comm_hooks"

var qualified = regexp.MustCompile(`[\w.]+:(\w+)`)

// title is the hook as a reader knows it: `fp16_compress_wrapper(powerSGD_hook)`.
func (c hookCase) title() string {
	switch {
	case c.needsDDP():
		return "`" + setUpByDDP[c.Mode].name + "`"
	case c.Hook == "":
		return "no hook"
	case strings.HasPrefix(c.Hook, "builtin:"):
		return "C++: " + strings.TrimPrefix(c.Hook, "builtin:")
	}
	return "`" + qualified.ReplaceAllString(c.Hook, "$1") + "`"
}

// names are the hooks of PyTorch that the case runs.
func (c hookCase) names() []string {
	if c.needsDDP() {
		return []string{setUpByDDP[c.Mode].name}
	}
	var names []string
	for _, match := range qualified.FindAllStringSubmatch(c.Hook, -1) {
		names = append(names, match[1])
	}
	return names
}
