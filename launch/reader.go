package launch

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// environment looks up variables.
type environment struct{ getenv func(string) (string, bool) }

func newEnvironment(opts Options) environment {
	getenv := opts.Getenv
	if getenv == nil {
		getenv = os.LookupEnv
	}
	return environment{getenv}
}

// text returns the trimmed value. An empty one is unset, as in `RANK= ./trainer`; so is the
// empty name.
func (e environment) text(name string) (string, bool) {
	if name == "" {
		return "", false
	}
	v, ok := e.getenv(name)
	v = strings.TrimSpace(v)
	return v, ok && v != ""
}

// first returns the name and value of the first of names that is set.
func (e environment) first(names ...string) (name, value string) {
	for _, n := range names {
		if v, ok := e.text(n); ok {
			return n, v
		}
	}
	return "", ""
}

func (e environment) any(names ...string) bool {
	name, _ := e.first(names...)
	return name != ""
}

// reader reads the variables of one family. It keeps the first error, so that a family
// reads all its fields in a row and the caller checks once.
type reader struct {
	environment
	source Source
	names  fieldNames
	err    *Error
}

func (r *reader) fail(name, value, reason, hint string) {
	if r.err == nil {
		r.err = &Error{Source: r.source, Variable: name, Value: value, Reason: reason, Hint: hint}
	}
}

// required reads an integer that must be there; because names what claimed the family.
func (r *reader) required(name, because, hint string) int {
	n, ok := r.integer(name)
	if !ok {
		r.fail(name, "", fmt.Sprintf("is not set although %s is", because), hint)
	}
	return n
}

func (r *reader) optional(name string, fallback int) int {
	if n, ok := r.integer(name); ok {
		return n
	}
	return fallback
}

// integer returns true for a malformed value too, and records its error: the variable is
// set, and to call it missing would mislead.
func (r *reader) integer(name string) (int, bool) {
	text, ok := r.text(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		r.fail(name, text, "is not an integer", integerHint(name, text))
	}
	return int(n), true
}

// integerHint explains the URLs that Kubernetes sets: for each Service a pod gets variables
// in the style of Docker's links, such as MASTER_PORT=tcp://10.96.3.1:29500.
func integerHint(name, text string) string {
	service, isPort := strings.CutSuffix(name, "_PORT")
	if !isPort || !strings.Contains(text, "://") {
		return "set it to a plain decimal number"
	}
	return fmt.Sprintf("Kubernetes sets it so for a Service that is called %s: set enableServiceLinks: false in the pod's spec, "+
		"give the Service another name, or set %s to the port's number in the container", strings.ToLower(service), name)
}
