package cbridge_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"pyhook/cbridge"
)

func ExampleStart() {
	in, err := cbridge.Start(context.Background(), cbridge.Config{Modules: []string{"json"}})
	if err != nil {
		log.Fatal(err) // says which interpreters were tried, and what to do
	}
	defer in.Close()

	json, err := in.Import("json")
	if err != nil {
		log.Fatal(err)
	}
	defer json.Close()
	text, err := json.CallValue("dumps", map[string]any{"lr": 0.1, "betas": []float64{0.9, 0.999}})
	fmt.Println(text, err)
	// Output: {"betas": [0.9, 0.999], "lr": 0.1} <nil>
}

func ExampleConvert() {
	o, err := cbridge.Convert([]any{1, "two", nil, []byte{3}})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	text, err := o.Repr()
	fmt.Println(text, err)
	_, err = cbridge.Convert(make(chan int))
	fmt.Println(err)
	// Output:
	// [1, 'two', None, b'\x03'] <nil>
	// cannot convert chan int: no Python form; use a bool, number, string, []byte, slice, map, *Object or tensor
}

func ExampleAs() {
	o, err := cbridge.Convert("gradient")
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	length, err := o.Call("__len__")
	if err != nil {
		log.Fatal(err)
	}
	defer length.Close()
	n, err := cbridge.As[int64](length)
	fmt.Println(n, err)
	// Output: 8 <nil>
}

func ExamplePythonError() {
	o, err := cbridge.Convert(map[string]int{"step": 1})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	_, err = o.CallValue("__getitem__", "loss")
	fmt.Println(err)
	fmt.Println(errors.Is(err, cbridge.Exception("LookupError")))
	var raised *cbridge.PythonError
	fmt.Println(errors.As(err, &raised), raised.Type)
	// Output:
	// KeyError: 'loss'
	// true
	// true KeyError
}

func ExampleNewFunc() {
	double, err := cbridge.NewFunc("double", func(args []*cbridge.Object) (any, error) {
		n, err := cbridge.As[int64](args[0])
		return 2 * n, err
	})
	if err != nil {
		log.Fatal(err)
	}
	defer double.Close()
	result, err := double.Invoke([]any{21}, nil) // as Python would call it
	if err != nil {
		log.Fatal(err)
	}
	defer result.Close()
	fmt.Println(result.Value())
	// Output: 42 <nil>
}
