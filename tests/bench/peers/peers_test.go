package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/tests/bench/peers/side"
	"pyhook/worker"
)

func TestMain(m *testing.M) {
	worker.Main()
	if name := os.Getenv(sideVariable); name != "" {
		if err := serve(context.Background(), name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestPeers: each peer whose parts are here gives the hook's result, for several callers too.
func TestPeers(t *testing.T) {
	python, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	e, err := newEnvironment(t.Context(), python.Executable, "../../../out/bench/peers")
	require.NoError(t, err)
	for _, p := range e.peers() {
		t.Run(fmt.Sprintf("%s, mean %v", p.name, p.mean), func(t *testing.T) {
			t.Parallel()
			if p.ready != nil {
				if err := p.ready(); err != nil {
					t.Skip(err)
				}
			}
			running, err := p.start()
			require.NoError(t, err)
			if p.mean {
				a, err := running.do(side.Order{Case: side.Case{Hook: "allreduce", Bytes: 4 << 10, Callers: 1}, Calls: 3})
				require.NoError(t, err)
				assert.Positive(t, a.MedianNS)
				require.NoError(t, running.close())
				return
			}
			c := side.Case{Hook: "fp16", Bytes: 4 << 10, Callers: 3}
			a, err := running.do(side.Order{Case: c, Calls: 3})
			require.NoError(t, err)
			assert.Positive(t, a.MedianNS)
			if p.name == "pyhook" || p.name == "worker" {
				assert.Zero(t, a.Copied)
			}
			a, err = running.do(side.Order{Case: c, Calls: 40, Endure: true})
			require.NoError(t, err)
			assert.Positive(t, a.Before)
			require.NoError(t, running.close())
		})
	}
	t.Run("a peer that ends, or gives another result, is found out", func(t *testing.T) {
		t.Parallel()
		p, err := self("pipe")
		require.NoError(t, err)
		// After an even number of calls nothing is negated.
		o := side.Order{Case: side.Case{Hook: "negated", Bytes: 4 << 10, Callers: 1}, Calls: 3}
		_, err = p.do(o)
		require.ErrorContains(t, err, "the bucket is not what the hook makes of it")
		o.Calls = 2
		_, err = p.do(o)
		require.NoError(t, err)
		require.NoError(t, p.cmd.Process.Kill())
		_, err = p.do(o)
		require.ErrorContains(t, err, "killed")
		require.NoError(t, p.close())
	})
}

func TestResult_print(t *testing.T) {
	copied := int64(49_152)
	r := &result{Torch: "2.0", Python: "3.11", Go: "go1.26", Cores: 2, Load: [2]string{"1.00", "2.00"},
		Rows: []row{
			{What: "the slow one", Hook: "noop", Bytes: 4 << 10, Ranks: 1, US: 250, P99US: 900, Ratio: 100, RatioLow: 90, RatioHigh: 110, Copied: &copied, AtLeast: true},
			{What: "the quick one", Hook: "noop", Bytes: 4 << 10, Ranks: 1, US: 2.5, P99US: 9, Ratio: 1, RatioLow: 1, RatioHigh: 1, Copied: new(int64)},
			{What: "the broken one", Hook: "noop", Bytes: 25 << 20, Ranks: 1, Error: "the process has ended: signal: killed"},
		},
		Endurance: []endurance{
			{What: "the dead one", Calls: 100, Goroutines: 8, Error: "the process has ended: signal: killed"},
			{What: "the quick one", Calls: 100, Goroutines: 8, Survived: true, US: 3, Growth: 1 << 19},
		},
		Missing: []missing{{"the missing one", "no mpicc; install it"}},
	}
	var out bytes.Buffer
	r.print(&out)
	assert.Equal(t, `torch 2.0, Python 3.11, go1.26, 2 cores, load 1.00 to 2.00
ratio: to pyhook, median of neighbouring blocks; times in us a call; copied: bytes a call besides the hook's own

hook  bucket  ratio  half lie in    us   p99  copied  peer
noop   4 KiB   1.00    1.00-1.00  2.50  9.00     0 B  the quick one
noop   4 KiB    100     90.0-110   250   900  >49 kB  the slow one
noop  25 MiB      -            -     -     -       -  the broken one: the process has ended: signal: killed

the noop hook on 4 KiB, from several goroutines at once

calls  goroutines  survives    us     memory  peer
  100           8       yes  3.00  +0.50 MiB  the quick one
  100           8        no     -          -  the dead one: the process has ended: signal: killed

left out: the missing one
  hint: no mpicc; install it
`, out.String())
}
