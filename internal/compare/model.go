package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Parameter is a trainable tensor of a model.
type Parameter struct {
	Name  string  `json:"name"`
	Shape []int64 `json:"shape"`
}

// elements is how many numbers the parameter has.
func (p Parameter) elements() int64 {
	n := int64(1)
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Model is the parameters of a model, in the order in which model.parameters() lists them.
type Model struct {
	Name       string      `json:"name"`
	Parameters []Parameter `json:"parameters"`
}

// Elements is how many numbers all parameters have.
func (m *Model) Elements() int64 {
	n := int64(0)
	for _, p := range m.Parameters {
		n += p.elements()
	}
	return n
}

// ErrModel is wrapped by the errors of models that are not known or not valid.
var ErrModel = errors.New("invalid model")

// maxElements bounds a model to what its sizes in bytes can be counted in.
const maxElements = 1 << 40

// ModelNames are the models whose shapes are built in, and digits, which is also trained.
func ModelNames() []string {
	return []string{"resnet50", "bert-base", "gpt2", "llama-7b-layer", Digits}
}

// LoadModel returns a built-in model by its name, or reads a file whose name ends in .json:
//
//	{"name": "mine", "parameters": [{"name": "fc.weight", "shape": [10, 64]}, ...]}
//
// with the parameters as model.parameters() lists them. Errors wrap ErrModel.
func LoadModel(name string) (*Model, error) {
	switch name {
	case "resnet50":
		return resnet50(), nil
	case "bert-base":
		return bertBase(), nil
	case "gpt2":
		return gpt2(), nil
	case "llama-7b-layer":
		return llamaLayer(), nil
	case Digits:
		return digitsModel(), nil
	}
	if !strings.HasSuffix(name, ".json") {
		return nil, fmt.Errorf("%w: no model is called %q: there are %s, or give a file that ends in .json", ErrModel, name, strings.Join(ModelNames(), ", "))
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModel, err)
	}
	defer file.Close()
	m := &Model{}
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w\nhint: write {\"name\": \"mine\", \"parameters\": [{\"name\": \"fc.weight\", \"shape\": [10, 64]}]}", ErrModel, name, err)
	}
	if m.Name == "" {
		m.Name = name
	}
	return m, m.check(name)
}

// check refuses an invalid model; file is its name.
func (m *Model) check(file string) error {
	if len(m.Parameters) == 0 {
		return fmt.Errorf("%w: %s has no parameters", ErrModel, file)
	}
	total := int64(0)
	for i, p := range m.Parameters {
		at := fmt.Sprintf("%s: parameter %d, %q", file, i, p.Name)
		n := int64(1)
		for _, d := range p.Shape {
			if d < 1 || d > maxElements/n {
				return fmt.Errorf("%w: %s: shape %v: sizes are from 1 up, and a model has at most 2^40 elements", ErrModel, at, p.Shape)
			}
			n *= d
		}
		if total += n; total > maxElements {
			return fmt.Errorf("%w: %s: the model has more than 2^40 elements", ErrModel, at)
		}
		if slices.ContainsFunc(m.Parameters[:i], func(q Parameter) bool { return q.Name == p.Name && p.Name != "" }) {
			return fmt.Errorf("%w: %s: the name is there twice", ErrModel, at)
		}
	}
	return nil
}
