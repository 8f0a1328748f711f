package tensorconv_test

import (
	"os"
	"testing"

	"pyhook/internal/torchtest"
)

// childCase is set in the environment of a test binary that runs childMain.
const childCase = "PYHOOK_TENSORCONV_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childCase) != "" {
		childMain()
		os.Exit(0)
	}
	torchtest.Main(m)
}
