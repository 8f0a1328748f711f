package launch

// Options say where Detect looks. The zero value looks at the process's own environment.
type Options struct {
	// Getenv replaces os.LookupEnv, for tests and dry runs.
	Getenv func(string) (string, bool)
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
