package launch

import (
	"strconv"
)

// Options say where Detect looks. The zero value looks at the process's own
// environment and has no flags.
type Options struct {
	// Flags are what the user said on the command line; they win.
	Flags Flags
	// Getenv stands in for os.LookupEnv, for tests and dry runs.
	Getenv func(string) (string, bool)
}

// Flags are explicit values. A nil pointer or an empty address is unset, so
// that "--rank 0" differs from no flag: Flags{Rank: new(0)}.
//
// Any of the four rank flags makes the flags the family, and Rank and WorldSize
// are both needed then. MasterAddr and MasterPort alone do not: they replace
// the meeting place of whichever family is found.
type Flags struct {
	Rank           *int
	WorldSize      *int
	LocalRank      *int
	LocalWorldSize *int
	MasterAddr     string
	MasterPort     *int
}

// The names under which errors speak of the flags.
const (
	flagRank           = "--rank"
	flagWorldSize      = "--world-size"
	flagLocalRank      = "--local-rank"
	flagLocalWorldSize = "--local-world-size"
	flagMasterAddr     = "--master-addr"
	flagMasterPort     = "--master-port"
)

func (f Flags) values() map[string]string {
	values := map[string]string{}
	for name, p := range map[string]*int{
		flagRank: f.Rank, flagWorldSize: f.WorldSize, flagLocalRank: f.LocalRank,
		flagLocalWorldSize: f.LocalWorldSize, flagMasterPort: f.MasterPort,
	} {
		if p != nil {
			values[name] = strconv.Itoa(*p)
		}
	}
	if f.MasterAddr != "" {
		values[flagMasterAddr] = f.MasterAddr
	}
	return values
}

// family is one launcher's way to tell a process its rank.
type family struct {
	source Source
	claims func(environment) bool
	// read fills the rank fields of the World and the reader's vars.
	read func(*reader) World
	// master finds the meeting place when neither a flag nor MASTER_* gives it.
	master func(*reader, *World)
}

// families is the order of precedence. The innermost launcher tends to come
// first: torchrun inside srun, and both inside a Kubernetes pod.
var families = []family{
	{SourceFlags, claimsFlags, readFlags, masterOfFlags},
	{SourceEnv, claimsEnv, readEnv, masterRequired},
	{SourcePET, claimsPET, readPET, masterOfPET},
	{SourceSlurm, claimsSlurm, readSlurm, masterOfSlurm},
	{SourceOpenMPI, claimsOpenMPI, readOpenMPI, masterOfMPI},
	{SourcePMI, claimsPMI, readPMI, masterOfMPI},
	{SourceSingle, func(environment) bool { return true }, readSingle, masterLoopback},
}

// Detect finds this process's place in the job, as the package comment
// describes. Every error is an *Error that names a variable.
//
// It reads the environment and changes nothing; Export tells Python. A process
// alone gets a port that was free a moment ago: Detect lets go of it so that
// rank 0 can take it, and another process can be faster.
//
// Detect is safe for concurrent use if Getenv is.
func Detect(opts Options) (World, error) {
	env := newEnvironment(opts)
	for _, f := range families {
		if f.claims(env) {
			return f.detect(env)
		}
	}
	panic("launch: the single process claims everything")
}

func (f family) detect(env environment) (World, error) {
	r := &reader{environment: env, source: f.source}
	w := f.read(r)
	w.Source = f.source
	w.RestartCount = r.optional("TORCHELASTIC_RESTART_COUNT", w.RestartCount)
	if id, ok := r.text("TORCHELASTIC_RUN_ID"); ok {
		w.RunID = id
	}
	w.ErrorFile, _ = r.text(errorFileVariable)
	if r.err == nil {
		r.explicitMaster(&w, f.source)
		f.master(r, &w)
	}
	if r.err != nil {
		return World{}, r.err
	}
	if err := w.check(r.vars); err != nil {
		return World{}, err
	}
	return w, nil
}
