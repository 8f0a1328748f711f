package trace

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"pyhook/tensor"
)

// Version is that of the manifests which this package reads.
const Version = 1

//go:embed manifest.schema.json
var schemaText []byte

// Manifest is what a rank's recording says of itself. docs/trace-format.md explains each field.
type Manifest struct {
	Complete   bool
	Ended      string // steps, program, limit, error; "": it was cut off
	Why        string
	Every      int
	Rank       int
	WorldSize  int `json:"world_size"`
	Backend    string
	Versions   struct{ Pyhook, Torch, Python string }
	Threads    int
	Hook       Named
	State      State
	Device     string
	Parameters []Parameter
	Layouts    []Layout
	Steps      []Step
}

// Named is a hook, or a state's class, and how it is found again.
type Named struct {
	Name   string
	Spec   string // of pyhook.LoadHook or NewState; "": NoSpec says why there is none
	NoSpec string `json:"no_spec"`
}

// State is the hook's first argument.
type State struct {
	Class     string // "": None or a process group
	Spec      string
	NoSpec    string         `json:"no_spec"`
	Arguments map[string]any // of its class, as far as its attributes show them; json.Number
	Groups    []Group
}

// Group is an attribute of the state that is a process group; of Attribute "" the state itself is.
type Group struct {
	Attribute string
	Ranks     []int
}

// Parameter is one of the model's.
type Parameter struct {
	Name  string // "": the recording was not given the model
	Shape []int64
	DType string
}

// Layout is that of a bucket. Offsets and lengths are in elements.
type Layout struct {
	DType     string
	Numel     int64
	Gradients []struct {
		Parameter      int
		Offset, Length int64
		Shape          []int64
	}
}

// Step is one recorded step.
type Step struct {
	Step          int
	State         string // the file of the state before it; "": none
	StateNotSaved string `json:"state_not_saved"`
	Calls         []Call
}

// Call is one call of the hook.
type Call struct {
	Bucket  int
	Skipped string // why it was not recorded; the rest is empty then
	Layout  int
	IsLast  bool `json:"is_last"`
	File    string
	Result  Result
}

// Failed returns the first call of which the recorded job had no result, or nil. After it the step may lack
// calls.
func (s *Step) Failed() *Call {
	for i := range s.Calls {
		if s.Calls[i].Result.Error != "" {
			return &s.Calls[i]
		}
	}
	return nil
}

// Result describes the hook's result as it lay in memory.
type Result struct {
	Error     string // what the hook raised, or gave in place of a tensor
	DType     string
	Shape     []int64
	Stride    []int64
	Offset    int64
	OwnBuffer bool `json:"own_buffer"`
}

// Numel is the result's number of elements.
func (r *Result) Numel() int64 { return elements(r.Shape) }

// MisreadByDDP reports whether stock DDP took other elements than the result's: it lays its own
// strides over the result's memory and begins where that does (reducer.cpp,
// populate_bucket_views_out).
func (r *Result) MisreadByDDP() bool {
	if r.OwnBuffer || r.Error != "" || r.Numel() == 0 {
		return false
	}
	step := int64(1)
	for i, size := range slices.Backward(r.Shape) {
		if size > 1 && r.Stride[i] != step {
			return true
		}
		step *= size
	}
	return r.Offset != 0
}

// compiled is the schema, which is part of this package.
var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaText))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("manifest.schema.json", document); err != nil {
		return nil, err
	}
	return compiler.Compile("manifest.schema.json")
})

// parseManifest reads a manifest and checks it whole, so that no number in it needs to be checked
// again.
func parseManifest(path string, data []byte) (*Manifest, error) {
	var head struct {
		Format  string
		Version int
	}
	if err := json.Unmarshal(data, &head); err != nil {
		detail := "it is not JSON"
		if json.Valid(data) {
			detail = "it is not a manifest"
		}
		return nil, &Error{Path: path, Detail: detail, Hint: changed, Err: err}
	}
	if head.Format == "pyhook-trace" && head.Version != Version {
		return nil, &Error{
			Path: path, Detail: fmt.Sprintf("it has format version %d, and this pyhook reads version %d", head.Version, Version),
			Hint: "use the pyhook that wrote it, or record again",
		}
	}
	schema, err := compiled()
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, &Error{Path: path, Detail: "it is not JSON", Hint: changed, Err: err}
	}
	if err := schema.Validate(document); err != nil {
		return nil, &Error{Path: path, Detail: "it is not a manifest: " + firstCause(err), Hint: changed}
	}
	if printable(document) { // its texts are shown, and whoever wrote it could write to the terminal
		if data, err = json.Marshal(document); err != nil {
			return nil, &Error{Path: path, Detail: "it is not a manifest", Hint: changed, Err: err}
		}
	}
	m := &Manifest{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // a rank of 2 must not become 2.0
	if err := decoder.Decode(m); err != nil {
		return nil, &Error{Path: path, Detail: "it is not a manifest", Hint: changed, Err: err}
	}
	if err := m.check(); err != nil {
		return nil, &Error{Path: path, Detail: err.Error(), Hint: changed}
	}
	return m, nil
}

const changed = "it was changed after it was written; record again"

// firstCause is the place of a schema's error and what is wrong there, on one line.
func firstCause(err error) string {
	lines := strings.Split(err.Error(), "\n")
	return strings.TrimSpace(strings.TrimLeft(lines[len(lines)-1], " -"))
}

// printable puts spaces in place of the control characters of all texts in a value of JSON, and reports
// whether there were any.
func printable(value any) (changed bool) {
	spaced := func(text string) string {
		return strings.Map(func(c rune) rune {
			if unicode.IsControl(c) {
				changed = true
				return ' '
			}
			return c
		}, text)
	}
	switch v := value.(type) {
	case []any:
		for i, part := range v {
			if text, is := part.(string); is {
				v[i] = spaced(text)
			}
			changed = printable(part) || changed
		}
	case map[string]any:
		for key, part := range v {
			if text, is := part.(string); is {
				v[key] = spaced(text)
			}
			changed = printable(part) || changed
		}
	}
	return changed
}

// check compares the parts of a manifest with each other: what a schema cannot.
func (m *Manifest) check() error {
	if m.Rank >= m.WorldSize {
		return fmt.Errorf("rank %d of %d", m.Rank, m.WorldSize)
	}
	for i, l := range m.Layouts {
		if err := m.checkLayout(&l); err != nil {
			return fmt.Errorf("layout %d: %w", i, err)
		}
	}
	last := -1
	for _, s := range m.Steps {
		if s.Step <= last {
			return fmt.Errorf("step %d comes after step %d", s.Step, last)
		}
		last = s.Step
		for i, c := range s.Calls {
			if c.Bucket != i {
				return fmt.Errorf("step %d: call %d is of bucket %d", s.Step, i, c.Bucket)
			}
			if err := m.checkCall(&c); err != nil {
				return fmt.Errorf("step %d, bucket %d: %w", s.Step, c.Bucket, err)
			}
		}
	}
	for _, g := range m.State.Groups {
		for _, rank := range g.Ranks {
			if rank >= m.WorldSize {
				return fmt.Errorf("the state's %q has rank %d of %d", g.Attribute, rank, m.WorldSize)
			}
		}
	}
	return nil
}

func (m *Manifest) checkLayout(l *Layout) error {
	at := int64(0)
	for _, g := range l.Gradients {
		if g.Parameter >= len(m.Parameters) {
			return fmt.Errorf("parameter %d of %d", g.Parameter, len(m.Parameters))
		}
		if g.Offset != at || g.Length != elements(g.Shape) {
			return fmt.Errorf("the gradient of parameter %d does not begin where the one before it ends, or its length is not that of its shape", g.Parameter)
		}
		if n := elements(m.Parameters[g.Parameter].Shape); g.Length != n && g.Length != 2*n { // 2: pairs of real ones
			return fmt.Errorf("parameter %d has %d elements and its gradient %d", g.Parameter, n, g.Length)
		}
		at += g.Length
	}
	if at != l.Numel {
		return fmt.Errorf("%d elements, and its gradients have %d", l.Numel, at)
	}
	return nil
}

func (m *Manifest) checkCall(c *Call) error {
	if c.Skipped != "" {
		return nil
	}
	if c.Layout >= len(m.Layouts) {
		return fmt.Errorf("layout %d of %d", c.Layout, len(m.Layouts))
	}
	if c.Result.Numel() < 0 {
		return fmt.Errorf("a result of shape %v", c.Result.Shape)
	}
	if len(c.Result.Shape) != len(c.Result.Stride) {
		return fmt.Errorf("a result of %d dimensions with %d strides", len(c.Result.Shape), len(c.Result.Stride))
	}
	return nil
}

// DTypeOf returns the dtype of a name, or an error that names the torch that has it.
func (m *Manifest) DTypeOf(name string) (tensor.DType, error) {
	dtype, err := tensor.ParseDType(name)
	if err != nil {
		return dtype, fmt.Errorf("dtype %s of torch %s, which this pyhook does not have", name, m.Versions.Torch)
	}
	return dtype, nil
}

// elements is the product of a shape, or -1 where it is beyond any memory.
func elements(shape []int64) int64 {
	n := int64(1)
	for _, size := range shape {
		if size != 0 && n > maxElements/size {
			return -1
		}
		n *= size
	}
	return n
}

// maxElements is the schema's bound of counts.
const maxElements = 1 << 40
