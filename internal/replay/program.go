package replay

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"pyhook/internal/hookspec"
	"pyhook/internal/trace"
	"pyhook/tensor"
)

//go:embed templates/program.go.tmpl
var programText string

// programData is what the template prints.
type programData struct {
	Folder, Note, Hook, State, Layout string
	Steps, Ranks                      int
	Parameters                        []programParameter
	Buckets                           []string
	Arguments                         []string
}

type programParameter struct{ Name, Shape, DType string }

// Program returns a Go program, as gofmt has it, that sets up the buckets of a recording's last step, its
// hook and its state; or the hook and state that are given. Texts of the recording are quoted. The
// error is a *trace.Error.
func Program(folder string, m *trace.Manifest, given hookspec.Spec) (string, error) {
	if len(m.Steps) == 0 {
		return "", &trace.Error{Path: folder, Detail: "it has no whole step, so no layout", Hint: "record a step"}
	}
	d := &programData{Folder: oneLine(folder), Steps: len(m.Steps), Ranks: m.WorldSize, Layout: "LayoutFixed"}
	for i, p := range m.Parameters {
		dtype, err := m.DTypeOf(p.DType)
		if err != nil {
			return "", &trace.Error{Path: folder, Detail: err.Error()}
		}
		d.Parameters = append(d.Parameters, programParameter{cmp.Or(p.Name, fmt.Sprintf("parameter%d", i)), list(p.Shape), goNames[dtype]})
	}
	whole := m.Steps
	for len(whole) > 1 && whole[len(whole)-1].Failed() != nil { // it may not have all buckets
		whole = whole[:len(whole)-1]
	}
	last := layoutOf(m, &whole[len(whole)-1])
	if !reflect.DeepEqual(last, layoutOf(m, &m.Steps[0])) {
		d.Layout = "LayoutRebuilt" // the first step had others, as DDP's has
	}
	listed := make([]bool, len(m.Parameters))
	for _, bucket := range last {
		if len(bucket) == 0 { // its gradient was sparse, and is not recorded
			continue
		}
		d.Buckets = append(d.Buckets, list(bucket))
		for _, p := range bucket {
			listed[p] = true
		}
	}
	var sparse []string
	for p, is := range listed {
		if !is {
			d.Buckets = append(d.Buckets, strconv.Itoa(p))
			sparse = append(sparse, strconv.Quote(d.Parameters[p].Name))
		}
	}
	if err := d.hook(m, given); err != nil {
		return "", err
	}
	if len(sparse) > 0 {
		d.Note = strings.TrimSpace(d.Note + " The recorded buckets do not have the parameters " + strings.Join(sparse, ", ") +
			", of sparse gradients: they come last here; set Sparse and call ReadySparse for them.")
	}
	return d.text(), nil
}

// text fills in the program, as gofmt has it. text/template would make the command 6 MB larger (package
// page says why), and go/format half a MB.
func (d *programData) text() string {
	var note, parameters, buckets, state strings.Builder
	if d.Note != "" {
		fmt.Fprintf(&note, "\n//\n// %s", d.Note)
	}
	for _, p := range d.Parameters {
		fmt.Fprintf(&parameters, "\t{Name: %q, Shape: []int64{%s}, DType: tensor.%s},\n", p.Name, p.Shape, p.DType)
	}
	for _, b := range d.Buckets {
		fmt.Fprintf(&buckets, "\t{%s},\n", b)
	}
	if d.State != "" {
		fmt.Fprintf(&state, "\t\tState:      pyhook.StateSpec{Spec: %q, Args: map[string]any{%s}},\n", d.State, strings.Join(d.Arguments, ", "))
	}
	return strings.NewReplacer("{{folder}}", d.Folder, "{{note}}", note.String(), "{{steps}}", strconv.Itoa(d.Steps),
		"{{parameters}}", parameters.String(), "{{buckets}}", buckets.String(), "{{ranks}}", strconv.Itoa(d.Ranks),
		"{{hook}}", strconv.Quote(d.Hook), "{{state}}", state.String(), "{{layout}}", d.Layout).Replace(programText)
}

// hook fills in hook and state.
func (d *programData) hook(m *trace.Manifest, given hookspec.Spec) error {
	d.Hook, d.State = m.Hook.Spec, m.State.Spec
	if given.Hook != "" {
		d.Hook, d.State = given.Hook, given.State
		args, err := given.Args()
		if err != nil {
			return err
		}
		d.arguments(args)
		return nil
	}
	var notes []string
	if d.Hook == "" {
		d.Hook = "hooks.py:hook"
		notes = append(notes, fmt.Sprintf("The recorded hook is %s: write it as a function of a file, and name that.", m.Hook.NoSpec))
	}
	if m.State.Class != "" && d.State == "" {
		d.State = "hooks.py:State"
		notes = append(notes, fmt.Sprintf("Its state is %s: name the class in a file.", m.State.NoSpec))
	}
	for _, g := range m.State.Groups {
		if g.Attribute != "process_group" {
			notes = append(notes, fmt.Sprintf("The state had a process group of ranks %v (%s): make it by j.TorchGroup().NewGroup on every rank.", g.Ranks, cmp.Or(g.Attribute, "the state itself")))
		}
	}
	d.Note = oneLine(strings.Join(notes, " "))
	if strings.HasSuffix(d.State, ")") {
		return nil // the spec has them
	}
	args, err := Arguments(m)
	if err == nil && d.State != "" {
		d.arguments(args)
	}
	return err
}

// arguments writes them as elements of a Go map. What Go has no literal for is JSON in a text.
func (d *programData) arguments(args map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(args)) {
		value := fmt.Sprintf("%#v", args[name])
		switch v := args[name].(type) {
		case nil:
			value = "nil"
		case float64:
			value = fmt.Sprintf("float64(%v)", v)
		case int64:
			value = fmt.Sprint(v)
		case bool, string:
		default:
			text, _ := json.Marshal(v) // it came of JSON
			value = fmt.Sprintf("%q", text)
		}
		d.Arguments = append(d.Arguments, fmt.Sprintf("%q: %s", name, value))
	}
}

// layoutOf returns the parameters of a step's buckets.
func layoutOf(m *trace.Manifest, s *trace.Step) (buckets [][]int) {
	for _, c := range s.Calls {
		var members []int
		if c.Skipped == "" {
			for _, g := range m.Layouts[c.Layout].Gradients {
				members = append(members, g.Parameter)
			}
		}
		buckets = append(buckets, members)
	}
	return buckets
}

func list[T int | int64](numbers []T) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// goNames are package tensor's names of the dtypes.
var goNames = map[tensor.DType]string{
	tensor.Float16: "Float16", tensor.BFloat16: "BFloat16", tensor.Float32: "Float32", tensor.Float64: "Float64",
	tensor.Complex64: "Complex64", tensor.Complex128: "Complex128", tensor.Int8: "Int8", tensor.Int16: "Int16",
	tensor.Int32: "Int32", tensor.Int64: "Int64", tensor.UInt8: "UInt8", tensor.Bool: "Bool",
}
