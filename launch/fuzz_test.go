package launch

import (
	"errors"
	"strings"
	"testing"
)

// FuzzDetect reads lines of KEY=value. Whatever they say, Detect gives a sound
// World that survives Environ, or an *Error with a variable and a hint.
func FuzzDetect(f *testing.F) {
	for _, v := range []vars{torchrunVars, petVars, slurmVars, batchVars, openmpiVars, hydraVars, nil} {
		var b strings.Builder
		for key, value := range v {
			b.WriteString(key + "=" + value + "\n")
		}
		f.Add(b.String())
	}
	f.Fuzz(func(t *testing.T, text string) {
		w, err := Detect(Options{Getenv: linesOf(text).getenv})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Variable == "" || e.Reason == "" || e.Hint == "" || e.Source == "" {
				t.Fatalf("an error without its parts: %#v", err)
			}
			return
		}
		again, err := Detect(Options{Getenv: linesOf(strings.Join(w.Environ(), "\n")).getenv})
		if err != nil {
			t.Fatalf("%v does not survive Environ: %v", w, err)
		}
		w.Source, w.Note, w.RestartCount, w.RunID, w.ErrorFile = SourceEnv, "", 0, "", ""
		if again != w {
			t.Fatalf("Environ changed %#v to %#v", w, again)
		}
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

// FuzzNodelist holds parseNodelist to what its users rely on.
func FuzzNodelist(f *testing.F) {
	for _, s := range []string{"n[001-004,7],m2", "r[1-2]n[1-3]", "n[", "a,,b", "n[0-9223372036854775807]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseNodelist(text)
		if err != nil {
			return
		}
		if list.first() == "" || list.count() < 1 {
			t.Fatalf("%q gave an empty list", text)
		}
		if list.count() > 1000 {
			return
		}
		n := 0
		for host := range list.all() {
			if strings.ContainsAny(host, "[], ") || host == "" {
				t.Fatalf("%q gave the host %q", text, host)
			}
			n++
		}
		if n != list.count() {
			t.Fatalf("%q has %d hosts and counts %d", text, n, list.count())
		}
	})
}
