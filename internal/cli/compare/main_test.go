package compare

import (
	"testing"

	"pyhook/internal/cli/clitest"
)

func TestMain(m *testing.M) { clitest.Main(m) }
