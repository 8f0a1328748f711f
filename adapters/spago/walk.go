package spagoddp

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/nn/embedding"
)

// named is a parameter of a model, with the path of fields, indices and keys to it.
type named struct {
	name  string
	param *nn.Param
}

// traversals is how often the order of a nn.ParamsTraverser is asked. One that ranges over a map of two
// gives the other order in an eighth of them: it looks ordered in 2e-15 of all models.
const traversals = 256

// parametersOf returns the parameters of a model, each once, in an order that depends on the
// model's types and keys alone.
func parametersOf(model nn.Model) ([]named, error) {
	w := walk{seen: map[*nn.Param]bool{}}
	if err := w.model(model, ""); err != nil {
		return nil, err
	}
	if len(w.list) == 0 {
		return nil, fmt.Errorf("spagoddp: %T has no parameters", model)
	}
	// What spago finds itself is what its optimiser updates.
	missing := 0
	nn.ForEachParam(model, func(p *nn.Param) {
		if !w.seen[p] {
			missing++
		}
	})
	if missing > 0 {
		return nil, fmt.Errorf("spagoddp: spago finds %d parameters of %T that Wrap does not: please report the model's type", missing, model)
	}
	return w.list, nil
}

// walk is spago's traversal (nn/traversal.go) with names, and with the keys of maps sorted.
type walk struct {
	list []named
	seen map[*nn.Param]bool
}

func (w *walk) add(p *nn.Param, name string) {
	if !w.seen[p] {
		w.seen[p] = true
		w.list = append(w.list, named{name, p})
	}
}

// model goes through a model's exported fields.
func (w *walk) model(m any, path string) error {
	if t, ok := m.(nn.ParamsTraverser); ok {
		return w.traverser(t, path)
	}
	v := reflect.ValueOf(m)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		name := v.Type().Field(i).Name
		if path != "" {
			name = path + "." + name
		}
		if err := w.field(v.Field(i), name); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) field(v reflect.Value, name string) error {
	switch v.Kind() {
	case reflect.Struct, reflect.Pointer, reflect.Interface:
		return w.item(v, name)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := w.element(v.Index(i), fmt.Sprintf("%s[%d]", name, i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		var entries []entry
		for iterator := v.MapRange(); iterator.Next(); {
			entries = append(entries, entry{iterator.Key().Interface(), iterator.Value()})
		}
		return w.entries(entries, name)
	}
	return nil
}

// element is of a slice or a map: spago leaves out what is not a struct, pointer or interface.
func (w *walk) element(v reflect.Value, name string) error {
	switch v.Kind() {
	case reflect.Struct, reflect.Pointer, reflect.Interface:
		return w.item(v, name)
	}
	return nil
}

type entry struct {
	key   any
	value reflect.Value
}

func (w *walk) entries(entries []entry, name string) error {
	for _, e := range entries {
		switch e.key.(type) {
		case string, int:
		default:
			return nil // as spago
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if x, ok := a.key.(int); ok {
			if y, ok := b.key.(int); ok {
				return cmp.Compare(x, y)
			}
		}
		return cmp.Compare(fmt.Sprint(a.key), fmt.Sprint(b.key))
	})
	for _, e := range entries {
		if err := w.element(e.value, fmt.Sprintf("%s[%v]", name, e.key)); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) item(v reflect.Value, name string) error {
	if v.Kind() != reflect.Struct && v.IsNil() || !v.CanInterface() {
		return nil
	}
	switch item := v.Interface().(type) {
	case nn.Module, *nn.Module:
	case *nn.Param:
		w.add(item, name)
	case nn.ParamsTraverser:
		return w.traverser(item, name)
	case nn.Model:
		return w.model(item, name)
	case *sync.Map:
		var entries []entry
		item.Range(func(key, value any) bool {
			entries = append(entries, entry{key, reflect.ValueOf(value)})
			return true
		})
		return w.entries(entries, name)
	}
	return nil
}

// traverser takes the parameters of a type with a traversal of its own.
func (w *walk) traverser(t nn.ParamsTraverser, path string) error {
	if _, ok := t.(*embedding.Model); ok {
		return fmt.Errorf("spagoddp: %s is an embedding.Model: it gives the optimiser those rows that were used on this rank, and not the ones that others used; "+
			"keep the rows in a []*nn.Param of the model", cmp.Or(path, "the model"))
	}
	order := func() (list []*nn.Param) {
		t.TraverseParams(func(p *nn.Param) { list = append(list, p) })
		return list
	}
	first := order()
	if len(first) == 0 {
		return fmt.Errorf("spagoddp: %s (%T) gives no parameters in TraverseParams: what it gives later would not be reduced", cmp.Or(path, "the model"), t)
	}
	for range traversals - 1 {
		if !slices.Equal(first, order()) {
			return fmt.Errorf("spagoddp: %s (%T) gives its parameters in another order at each TraverseParams, as of a map: ranks would mix them up; sort them there", cmp.Or(path, "the model"), t)
		}
	}
	for i, p := range first {
		w.add(p, fmt.Sprintf("%s(%d)", path, i))
	}
	return nil
}
