package tensorconv

import (
	"context"
	"fmt"
	"os"
	"testing"

	"pyhook/cbridge"
)

func TestMain(m *testing.M) {
	python, err := cbridge.Start(context.Background(), cbridge.Config{Modules: []string{"torch", "numpy"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("Python %s from %s (%s)\n", python.Version, python.Library, python.Python.Source)
	os.Exit(m.Run())
}
