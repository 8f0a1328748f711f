package job

// failure is what Check and Must leave train with.
type failure struct{ err error }

// Check ends Main's train with err, if that is not nil, as return does: for programs that do nothing
// else about errors. It unwinds the goroutine (deferred calls run) and so is for train's own alone;
// outside of Main it is a panic with err.
func Check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// Must returns v, or ends train as Check does.
func Must[T any](v T, err error) T {
	Check(err)
	return v
}

func (f failure) Error() string { return f.err.Error() }

// Unwrap returns the error.
func (f failure) Unwrap() error { return f.err }
