package check

import (
	"context"
	"fmt"

	"pyhook/pyhook"
)

// afterStep loads --after-step's function; nil where there is none.
func (r *rankRun) afterStep() (*pyhook.Object, error) {
	if r.plan.AfterStep == "" {
		return nil, nil
	}
	function, err := r.python("after_step", r.plan.AfterStep)
	if err != nil {
		return nil, fmt.Errorf("--after-step %s, rank %d: %w", r.plan.AfterStep, r.group.Rank(), err)
	}
	return function, nil
}

// python calls a function of python/pyhook/_runtime/check.py.
func (r *rankRun) python(name string, args ...any) (*pyhook.Object, error) {
	judge, err := r.rt.Import(context.Background(), "pyhook._runtime.check")
	if err != nil {
		return nil, err
	}
	defer judge.Close()
	return judge.Call(name, args...)
}

// afterError is of --after-step's function.
type afterError struct {
	spec       string
	rank, step int
	err        error
}

func (e *afterError) Error() string {
	return fmt.Sprintf("--after-step %s, rank %d, after step %d: %v", e.spec, e.rank, e.step, e.err)
}

func (e *afterError) Unwrap() error { return e.err }

// callAfter calls --after-step's function with the hook's state and the step.
func (p *phase) callAfter(step int) error {
	if p.after == nil {
		return nil
	}
	p.run.at(step, -1)
	p.run.enter("in "+p.run.plan.AfterStep+", after step "+fmt.Sprint(step), p.run.plan.Timeout)
	var state any
	if python, ok := p.hook.(*pyhook.PythonCommHook); ok {
		state = python.State()
	}
	result, err := p.after.Invoke([]any{state, step}, nil)
	if err != nil {
		return &afterError{p.run.plan.AfterStep, p.run.group.Rank(), step, err}
	}
	result.Close()
	return nil
}
