package pyhook

import "pyhook/cbridge"

// callModule calls a function of one of pyhook's Python modules, which is imported at its first use.
func callModule(module, function string, args ...any) (*Object, error) {
	m, err := cbridge.Import(module)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Call(function, args...)
}

// moduleValue is callModule for a result that has a form in Go.
func moduleValue(module, function string, args ...any) (any, error) {
	result, err := callModule(module, function, args...)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	return result.Value()
}
