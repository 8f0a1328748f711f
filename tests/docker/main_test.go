// Package docker_test runs the container image as its users do, and jobs of
// several containers while one of them is killed, paused, cut off, slowed or
// restarted. It needs a Docker engine and the images that scripts/test-docker.sh
// makes: `make test-docker` runs it, `go test ./...` does not.
package docker_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

var (
	image   = os.Getenv("PYHOOK_TEST_DOCKER")                  // its tags cpu and none are tested
	base    = os.Getenv("PYHOOK_TEST_BASE")                    // what they were made from
	compose = strings.Fields(os.Getenv("PYHOOK_TEST_COMPOSE")) // the command, of either generation
)

func TestMain(m *testing.M) {
	if image == "" {
		fmt.Println("not run: make test-docker does it")
		return
	}
	os.Exit(m.Run())
}
