package launch

import (
	"strconv"
)

// Options say where Detect looks. The zero value looks at the process's own
// environment and has no flags.
type Options struct {
	// Flags are what the user gave on the command line; they win.
	Flags Flags
	// Getenv replaces os.LookupEnv, for tests and dry runs.
	Getenv func(string) (string, bool)
}

// Flags are explicit values. A nil pointer or an empty address is unset, so
// that "--rank 0" differs from no flag: Flags{Rank: new(0)}.
//
// Any of the four rank flags makes the flags the family, and Rank and Size
// are both needed then. MasterAddr and MasterPort alone do not: they replace
// the master address of whichever family is found.
type Flags struct {
	Rank       *int
	Size       *int
	LocalRank  *int
	LocalSize  *int
	MasterAddr string
	MasterPort *int
}

// The names that errors use for the flags.
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
		flagRank: f.Rank, flagWorldSize: f.Size, flagLocalRank: f.LocalRank,
		flagLocalWorldSize: f.LocalSize, flagMasterPort: f.MasterPort,
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

// Detect finds this process's rank and the size of the job, as the package
// comment describes. Every error is an *Error that names a variable.
//
// Detect reads the environment and changes nothing; World.Export sets the
// variables for Python. A process that is alone gets a port that was free a
// moment ago: Detect closes it for rank 0 to listen at, and another process can
// be faster.
//
// Detect is safe for concurrent use if Getenv is.
func Detect(opts Options) (World, error) {
	env := newEnvironment(opts)
	return familyOf(env, families).detect(env)
}
