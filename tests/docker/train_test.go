package docker_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

var hooks = []string{"allreduce", "fp16", "powersgd"}

// TestContainersTrainAsRanksOfOneMachineDo: each host has an address of its own
// and finds the others by torchrun's c10d rendezvous.
func TestContainersTrainAsRanksOfOneMachineDo(t *testing.T) {
	for _, hosts := range []int{2, 4} {
		for _, hook := range hooks {
			tr := training{hosts, hook, 5}
			t.Run(tr.String(), func(t *testing.T) {
				t.Parallel()
				j := start(t, tr)
				addresses := map[string]bool{}
				for host := range hosts {
					addresses[j.inspect(host, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")] = true
				}
				assert.Len(t, addresses, hosts)
				assert.NotContains(t, addresses, "")
				j.wait()
				j.alike()
				assert.Equal(t, 0, j.report().FirstStep, "nothing was restarted")
			})
		}
	}
}
