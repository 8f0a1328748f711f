package replay

import (
	"fmt"
	"regexp"
	"strings"

	"pyhook/internal/shortname"
	"pyhook/internal/trace"
)

// RecordedHook returns the spec of the recorded hook if it is one of PyTorch's, or of its wrappers around
// them: the only ones that are run because a recording names them. It is a file that anybody may have
// written. For any other hook the error says how to name it.
func RecordedHook(folder string, m *trace.Manifest) (string, error) {
	if shortname.IsHook(m.Hook.Spec) {
		return m.Hook.Spec, nil
	}
	return "", &trace.Error{Path: folder, Detail: fmt.Sprintf("it is of the hook %s, which is run only if you name it", m.Hook.Name), Hint: nameIt(folder, m)}
}

// RecordedState is RecordedHook for the state.
func RecordedState(folder string, m *trace.Manifest) (string, error) {
	if shortname.IsState(m.State.Spec) {
		return m.State.Spec, nil
	}
	return "", &trace.Error{Path: folder, Detail: fmt.Sprintf("its hook has a state of class %s, which is made only if you name it", m.State.Class), Hint: nameIt(folder, m)}
}

// nameIt says which flags name hook and state.
func nameIt(folder string, m *trace.Manifest) string {
	flags := []string{"pyhook replay", quoted(folder)}
	var why []string
	if m.Hook.Spec != "" {
		flags = append(flags, "--hook", quoted(m.Hook.Spec))
	} else {
		flags = append(flags, "--hook FILE.py:NAME")
		why = append(why, fmt.Sprintf("the hook is %s, so write it as a function of a file", m.Hook.NoSpec))
	}
	if m.State.Class != "" {
		if m.State.Spec != "" {
			flags = append(flags, "--state", quoted(m.State.Spec))
		} else {
			flags = append(flags, "--state FILE.py:CLASS")
			why = append(why, fmt.Sprintf("the state is %s", m.State.NoSpec))
		}
	}
	text := strings.Join(flags, " ")
	if len(why) > 0 {
		text += " (" + strings.Join(why, "; ") + ")"
	}
	return text
}

// quoted is a word for a shell.
func quoted(word string) string {
	if regexp.MustCompile(`^[\w./:@%+=,-]+$`).MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
