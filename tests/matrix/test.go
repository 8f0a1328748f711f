package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// test runs a package's tests; their output goes to out/matrix.
func (p *installation) test(b *build, one testPackage) tested {
	cmd := p.command(one.folder, one.binary, "-test.v=test2json", "-test.timeout=30m")
	cmd.Env = append(cmd.Env, "PYHOOK_TEST_COMMAND="+b.command)
	if one.name == "pyhook/tests/parity" { // it notes what each hook did on this torch
		cmd.Args = append(cmd.Args, "-update", "-test.skip=TestTheTableInTheDocs")
	}
	log := filepath.Join(b.root, "out", "matrix", p.name+"-"+filepath.Base(one.binary)+".json")
	out, err := p.events(b, one, cmd, log)
	if err == nil {
		var t tested
		if t, err = count(bytes.NewReader(out), one.name); err == nil {
			return t
		}
	}
	return tested{Package: one.name, Failed: []string{err.Error()}}
}

// events runs cmd and returns its output as test2json has it.
func (p *installation) events(b *build, one testPackage, cmd *exec.Cmd, log string) ([]byte, error) {
	raw, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("starting the tests: %w", err)
	}
	convert := exec.Command("go", "tool", "test2json", "-p", one.name)
	convert.Dir = b.root
	convert.Stdin = bytes.NewReader(raw)
	out, convertErr := convert.Output()
	if convertErr != nil {
		return nil, fmt.Errorf("test2json: %w", convertErr)
	}
	if err := os.WriteFile(log, out, 0o644); err != nil {
		return nil, err
	}
	if err != nil { // also when the process died and no test says that it failed
		out = append(out, []byte(`{"Action":"fail"}`+"\n")...)
	}
	return out, nil
}
