package ddp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pyhook/c10d"
	"pyhook/ddp/internal/commit"
)

// agreement is a Reducer's part in the ranks' votes; nil: there is no vote.
type agreement struct {
	member *commit.Member
	// The Reducer's mutex guards these.
	step   uint64 // the one that is voted on next
	failed map[uint64]*commit.Failure
}

// joinAgreement connects the ranks, a collective, unless there is nothing to agree on. Decisions that
// a step failed go to notify.
func joinAgreement(ctx context.Context, params []*c10d.Parameter, opts Options, notify func(uint64, *commit.Failure)) (*agreement, error) {
	if !opts.votes() || opts.Group.Size() == 1 {
		return nil, nil
	}
	member, err := commit.Join(ctx, opts.Group, opts.terms(), notify, func(digests [][]byte) *commit.Failure { return differentValues(params, digests) })
	var differ *commit.TermsError
	if errors.As(err, &differ) {
		return nil, optionsError(opts.Group.Rank(), differ.Differ)
	}
	if err != nil {
		return nil, fmt.Errorf("ddp, rank %d: %w\nhint: where ranks cannot reach each other but by the group, or some are not pyhook's, set Options.Agreement to AgreementNone on every rank",
			opts.Group.Rank(), err)
	}
	return &agreement{member: member, failed: map[uint64]*commit.Failure{}}, nil
}

// terms are what would have the ranks issue other collectives, or go on from other states.
func (o Options) terms() []commit.Term {
	limits := o.limits()
	return []commit.Term{
		{Name: "Hook", Value: hookTerm(o.Hook)},
		{Name: "BucketCapMB", Value: fmt.Sprint(float64(limits[1]) / (1 << 20))},
		{Name: "FirstBucketMB", Value: fmt.Sprint(float64(limits[0]) / (1 << 20))},
		{Name: "Buckets", Value: short(fmt.Sprint(o.Buckets))},
		{Name: "Order", Value: o.Order.String()},
		{Name: "Layout", Value: o.Layout.String()},
		{Name: "Unused", Value: o.Unused.String()},
		{Name: "StaticGraph", Value: fmt.Sprint(o.StaticGraph)},
		{Name: "Join", Value: fmt.Sprint(o.Join)},
		{Name: "DigestEvery", Value: fmt.Sprint(o.DigestEvery)},
		{Name: "Rollback", Value: fmt.Sprint(o.Rollback)},
	}
}

// hookTerm is empty of a hook that does not say.
func hookTerm(hook c10d.CommHook) string {
	switch h := hook.(type) {
	case nil:
		return "none"
	case c10d.DescribedHook:
		return h.Description()
	}
	return ""
}

// short leaves out the middle of a long text, and stays another one for another text.
func short(text string) string {
	if len(text) <= 200 {
		return text
	}
	return fmt.Sprintf("%s... (%d bytes, sha256 %.4x)", text[:100], len(text), sha256.Sum256([]byte(text)))
}

func optionsError(rank int, differ []commit.Difference) error {
	var names, details []string
	for _, d := range differ {
		names = append(names, "Options."+d.Name)
		details = append(details, fmt.Sprintf("%s is %s on rank %d and %s on rank %d", d.Name, d.Values[0], d.Ranks[0], d.Values[1], d.Ranks[1]))
	}
	return &ParameterError{Rank: rank, Names: names, Code: ErrMismatch, Detail: strings.Join(details, "; "), Hint: "give every rank the same ddp.Options"}
}

// close leaves the vote; a may be nil.
func (a *agreement) close() {
	if a != nil {
		a.member.Close()
	}
}

// together has all ranks say whether they could do what is named, nil or why not, and returns an
// error on each where one could not. a may be nil.
func (a *agreement) together(ctx context.Context, rank int, doing string, mine error) error {
	if a == nil {
		return mine
	}
	var text []byte
	if mine != nil {
		text = []byte(mine.Error())
	}
	texts, err := a.member.Meet(ctx, text)
	if mine != nil {
		return mine
	}
	if err != nil {
		return a.meetingError(rank, doing, err)
	}
	for other, text := range texts {
		if len(text) > 0 {
			return &c10d.Error{Op: doing, Rank: rank, Bucket: -1, Code: c10d.ErrPeer, Detail: fmt.Sprintf("rank %d failed: %s", other, text), Hint: "see that rank's own error"}
		}
	}
	return nil
}

// startAgain is what is left to do where the ranks cannot go on in place.
const startAgain = "end all ranks and start them again from a checkpoint (torchrun does)"

func (a *agreement) meetingError(rank int, doing string, err error) error {
	e := &c10d.Error{Op: doing, Rank: rank, Bucket: -1, Code: c10d.ErrPeer, Detail: err.Error(), Err: err,
		Hint: "it does not come back: " + startAgain}
	if code := c10d.ContextCode(err); code != "" {
		e.Code, e.Detail, e.Hint = code, "waiting for all ranks to call it: "+err.Error(), "every rank calls it"
	}
	return e
}

// agree makes one outcome of all ranks' ones; mine is this rank's. It sets s.reduced to whether the
// next step may begin.
func (r *Reducer) agree(ctx context.Context, s *step, mine error) error {
	a := r.agreement
	if a == nil || errors.Is(mine, ErrClosed) {
		return mine
	}
	joined := errors.Is(mine, errAllJoined)
	if joined { // so it is on every rank
		mine = nil
	}
	r.mu.Lock()
	step := a.step
	a.step++
	s.voted = true
	r.mu.Unlock()
	rank := r.opts.Group.Rank()
	said := s.said // what this rank has told the others, of which they took the first
	var no *commit.Failure
	if mine != nil {
		mine = r.asStepError(mine)
		said = append(said, newStatement(mine))
		no = said[len(said)-1].failure(rank)
		no.Over = s.reduced
	}
	ended := func(cause error) []byte {
		said = append(said, newStatement(r.asStepError(cause)))
		return said[len(said)-1].cause
	}
	f, err := a.member.Vote(ctx, step, no, s.digests, ended)
	r.mu.Lock()
	delete(a.failed, step)
	closed := r.closed
	r.mu.Unlock()
	var gone *commit.GoneError
	switch {
	case err != nil && closed:
		s.reduced = false
		return ErrClosed
	case errors.As(err, &gone):
		s.reduced = false
		return decodeFailure(rank, &commit.Failure{Rank: gone.Rank, Gone: gone.Reason})
	case err != nil:
		s.reduced = false
		detail := err.Error()
		if mine != nil {
			detail += ". Here the step failed: " + mine.Error()
		}
		return &StepError{Rank: rank, Origin: rank, Bucket: -1, Code: c10d.ErrPeer,
			Err: &c10d.Error{Op: "the ranks' vote", Rank: rank, Bucket: -1, Code: c10d.ErrPeer, Detail: detail, Hint: c10d.ErrPeer.Hint(), Err: errors.Join(err, mine)}}
	case f == nil && joined:
		return errAllJoined
	case f == nil:
		s.reduced = true
		return nil
	}
	s.reduced = f.Over
	for _, own := range said {
		if f.Rank == rank && bytes.Equal(f.Cause, own.cause) {
			return own.err
		}
	}
	return decodeFailure(rank, f)
}

// reportFailureLocked tells the other ranks that a hook failed, before Wait does.
func (r *Reducer) reportFailureLocked(s *step) {
	if r.agreement != nil && s.stop == nil {
		own := newStatement(r.failureLocked(s))
		s.said = append(s.said, own)
		r.agreement.fail(own.failure(r.opts.Group.Rank()))
	}
}

// fail votes no on the step, without waiting, by the caller with the Reducer's mutex held. a may be
// nil.
func (a *agreement) fail(f *commit.Failure) {
	if a != nil {
		go a.member.Fail(a.step, f) // the coordinator has a mutex of its own
	}
}

// statement is a failure of this rank's, and what the others get to read of it.
type statement struct {
	err   error // a *StepError
	cause []byte
}

func newStatement(err error) statement { return statement{err, encodeFailure(err)} }

// failure is it as a vote. A lost peer has a cause elsewhere, which may be on its way.
func (s statement) failure(rank int) *commit.Failure {
	return &commit.Failure{Rank: rank, Cause: s.cause, Weak: errors.Is(s.err, c10d.ErrPeer)}
}

// notify is called when a step failed, on some rank. A step that is under way here ends; one that has
// not begun will, at its first mark.
func (r *Reducer) notify(step uint64, f *commit.Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if step < r.agreement.step {
		return // Wait has it
	}
	r.agreement.failed[step] = f
	if r.step.begun {
		r.heedLocked(r.step)
	}
}

// heedLocked ends step s if it failed on another rank already.
func (r *Reducer) heedLocked(s *step) {
	if r.agreement == nil || len(r.agreement.failed) == 0 {
		return
	}
	f := r.agreement.failed[r.agreement.step]
	if f == nil || s.voted || s.over {
		return
	}
	err := decodeFailure(r.opts.Group.Rank(), f)
	if !f.Over && s.begun {
		retireGroup(r.opts.Group, err)
	}
	r.stopLocked(s, err)
}

// failureText is a StepError on its way to other ranks.
type failureText struct {
	Bucket int         `json:"bucket"`
	Names  []string    `json:"names,omitempty"`
	Op     string      `json:"op,omitempty"`
	Code   c10d.Code   `json:"code"`
	Also   []c10d.Code `json:"also,omitempty"`
	Detail string      `json:"detail,omitempty"`
	Hint   string      `json:"hint,omitempty"`
	Stacks string      `json:"stacks,omitempty"`
	// Traceback is Python's, of the exception.
	Traceback string `json:"traceback,omitempty"`
	// Common is a failure of all ranks together: the cause is a *ParameterError on each.
	Common bool `json:"common,omitempty"`
}

// traced is the cause of another rank's failure, for the traceback that c10d.Error shows of it.
type traced struct{ text, traceback string }

func (t traced) Error() string         { return t.text }
func (t traced) FullTraceback() string { return t.traceback }

// asStepError returns err as a *StepError of this rank, which it may be already.
func (r *Reducer) asStepError(err error) error {
	var step *StepError
	if errors.As(err, &step) {
		return err
	}
	var names []string
	var parameter *ParameterError
	if errors.As(err, &parameter) {
		names = parameter.Names
	}
	return newStepError(r.opts.Group.Rank(), -1, names, err)
}

func newStepError(rank, bucket int, names []string, err error) *StepError {
	return &StepError{Rank: rank, Origin: rank, Bucket: bucket, Names: names, Code: codeOf(err), Err: err}
}

// codeOf returns the code that says most about an error.
func codeOf(err error) c10d.Code {
	var known *c10d.Error
	var parameter *ParameterError
	switch codes := c10d.CodesOf(err); {
	case errors.As(err, &known) && known.Code != "":
		return known.Code
	case errors.As(err, &parameter):
		return parameter.Code
	case len(codes) > 0:
		return codes[0]
	}
	return ErrStep
}

func encodeFailure(err error) []byte {
	var step *StepError
	errors.As(err, &step)
	text := failureText{Bucket: step.Bucket, Names: step.Names, Code: step.Code, Detail: strings.TrimPrefix(step.Err.Error(), step.Code.Error()+": ")}
	var known *c10d.Error
	if errors.As(step.Err, &known) {
		text.Op, text.Also, text.Detail, text.Hint, text.Stacks = known.Op, slices.Clone(known.Also), known.Detail, known.Hint, known.Stacks
	}
	var python interface{ FullTraceback() string }
	if errors.As(step.Err, &python) {
		text.Traceback = python.FullTraceback()
	}
	for _, code := range c10d.CodesOf(step.Err) {
		if !errors.Is(text.Code, code) && !slices.Contains(text.Also, code) {
			text.Also = append(text.Also, code)
		}
	}
	data, err := json.Marshal(text)
	if err != nil {
		return nil // cannot be: strings and numbers
	}
	return data
}

// decodeFailure makes the error of a step that failed on another rank.
func decodeFailure(rank int, f *commit.Failure) error {
	text := failureText{Bucket: -1, Op: "step", Code: c10d.ErrPeer, Detail: f.Gone,
		Hint: "it does not come back: " + startAgain}
	switch {
	case f.Silent:
		text.Detail, text.Hint = "it is frozen or cut off: the other ranks waited for its vote, and it did not answer", c10d.ErrPeer.Hint()
	case f.Gone == "":
		text = failureText{}
		if err := json.Unmarshal(f.Cause, &text); err != nil {
			text = failureText{Bucket: -1, Code: c10d.ErrPeer, Detail: "what it says of it cannot be read: " + err.Error()}
		}
	}
	if text.Common {
		return &StepError{Rank: rank, Origin: f.Rank, Bucket: -1, Names: text.Names, Code: text.Code,
			Err: &ParameterError{Rank: rank, Names: text.Names, Code: text.Code, Detail: text.Detail, Hint: text.Hint}}
	}
	if text.Op == "" {
		text.Op = "step"
	}
	var cause error
	if text.Traceback != "" {
		cause = traced{text.Detail, text.Traceback}
	}
	return &StepError{Rank: rank, Origin: f.Rank, Bucket: text.Bucket, Names: text.Names, Code: text.Code,
		Err: &c10d.Error{Err: cause, Op: text.Op, Rank: f.Rank, Bucket: text.Bucket, Code: text.Code, Also: text.Also, Detail: text.Detail, Hint: text.Hint, Stacks: text.Stacks}}
}
