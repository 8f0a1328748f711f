package launch

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// FuzzDetect reads lines of KEY=value. Whatever they are, Detect gives a valid
// World that survives Environ, or an *Error with a variable and a hint.
func FuzzDetect(f *testing.F) {
	for _, v := range sampleVars {
		var b strings.Builder
		for key, value := range v {
			b.WriteString(key + "=" + value + "\n")
		}
		f.Add(b.String())
	}
	f.Fuzz(func(t *testing.T, text string) {
		detected(t, Options{Getenv: linesOf(text).getenv})
	})
}

// detected holds Detect to its contract.
func detected(t *testing.T, opts Options) {
	t.Helper()
	w, err := Detect(opts)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Variable == "" || e.Reason == "" || e.Hint == "" || e.Source == "" {
			t.Fatalf("an error without its parts: %#v", err)
		}
		return
	}
	if w.Rank < 0 || w.Rank >= w.Size || w.LocalRank < 0 || w.LocalRank >= w.LocalSize || w.LocalSize > w.Size ||
		w.NodeRank < 0 || w.NodeRank >= w.Nodes || w.MasterAddr == "" || w.MasterPort < 1 || w.MasterPort > 65535 {
		t.Fatalf("a World that cannot be: %#v", w)
	}
	again, err := Detect(Options{Getenv: linesOf(strings.Join(w.Environ(), "\n")).getenv})
	if err != nil {
		t.Fatalf("%v does not survive Environ: %v", w, err)
	}
	w.Source, w.Note, w.RestartCount, w.RunID, w.ErrorFile = SourceEnv, "", 0, "", ""
	if again != w {
		t.Fatalf("Environ changed %#v to %#v", w, again)
	}
}

// What FuzzDetectMix's bytes choose from.
var mixValues = []string{
	"0", "1", "2", "3", "7", "8", "", "-1", "x", " 1", "01", "+1", "1.5", "0x10", "65535", "65536", "2147483648", "9223372036854775807",
	"99999999999999999999", "host", "10.0.0.1", "::1", "[::1]", "tcp://10.96.3.1:29500", "host:29500", "n[1-4]", "n[007-009],m2", "n[", "2(x3),1", "2(x", "4", "auto", "1:4", "\x00", "29500",
}

func mixNames() []string {
	names := map[string]bool{}
	for _, name := range strings.Fields(`MASTER_ADDR MASTER_PORT PET_RDZV_ENDPOINT PET_RDZV_BACKEND PET_RDZV_ID PET_MAX_RESTARTS
		SLURM_NNODES SLURM_NPROCS SLURM_NODELIST SLURM_JOBID SLURM_STEPID SLURM_NTASKS_PER_NODE SLURM_SUBMIT_HOST SLURM_LAUNCH_NODE_IPADDR
		MV2_COMM_WORLD_RANK MV2_COMM_WORLD_SIZE MV2_COMM_WORLD_LOCAL_RANK MV2_COMM_WORLD_LOCAL_SIZE
		PMI_LOCAL_RANK PMI_LOCAL_SIZE PALS_LOCAL_RANKID PALS_NODEID PALS_LOCAL_SIZE`) {
		names[name] = true
	}
	for _, v := range sampleVars {
		for name := range v {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// FuzzDetectMix mixes the variables of all launchers: each pair of bytes
// chooses a name and a value. A launcher's variables may be there first.
func FuzzDetectMix(f *testing.F) {
	names, whole := mixNames(), sampleVars
	for i := range whole {
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{byte(i * 7), byte(i), byte(i * 5), 6, 200 + byte(i), 1})
	}
	f.Fuzz(func(t *testing.T, first uint8, mix []byte) {
		env := vars{}
		maps.Copy(env, whole[int(first)%len(whole)])
		for pair := range slices.Chunk(mix, 2) {
			if len(pair) < 2 {
				break
			}
			if name := int(pair[0]); name < 2*len(names) {
				env[names[name%len(names)]] = mixValues[int(pair[1])%len(mixValues)]
			} else {
				delete(env, names[name%len(names)])
			}
		}
		detected(t, Options{Getenv: env.getenv})
	})
}

func linesOf(text string) vars {
	v := vars{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			v[key] = value
		}
	}
	return v
}
