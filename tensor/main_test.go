package tensor_test

import (
	"testing"

	"pyhook/internal/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }
