package pyhook

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"pyhook/c10d"
)

// bucketForm describes what a state may depend on in a bucket: PowerSGD, for example, keeps its
// error by the bucket's index, in a tensor of the bucket's size.
type bucketForm struct {
	elements int64
	dtype    string
	digest   string // of dtype, and of each parameter's name, offset and shape
}

func formOf(b *c10d.GradBucket) bucketForm {
	form := bucketForm{elements: b.Buffer().Len(), dtype: b.Buffer().DType().String()}
	sum := sha256.New()
	fmt.Fprintln(sum, form.elements, form.dtype)
	for i, p := range b.Parameters() {
		fmt.Fprintf(sum, "%q %d %v\n", p.Name, b.Offsets()[i], b.Sizes()[i])
	}
	form.digest = hex.EncodeToString(sum.Sum(nil)[:8])
	return form
}

// value is the form in a file.
func (f bucketForm) value() any { return []any{f.elements, f.dtype, f.digest} }

func (f bucketForm) String() string { return fmt.Sprintf("%d elements of %s", f.elements, f.dtype) }

// knownBucket is one that a hook was called with.
type knownBucket struct {
	bucket *c10d.GradBucket
	form   bucketForm
}

// hookBuckets records the buckets that a hook was called with last, and those that its restored
// state was saved with. A call with the former bucket of its index costs one slice lookup.
type hookBuckets struct {
	last atomic.Pointer[[]knownBucket] // by index

	mu    sync.Mutex
	saved []bucketForm // of the state that was loaded, until a step has passed; nil: any is accepted
	// unnamed: the file of the state that was loaded does not say which buckets it belongs to. So they
	// are taken for the first ones that come, and must not change.
	unnamed bool
}

// check records that b is about to be reduced. It returns an error if the hook's state was saved
// with other buckets.
func (h *hookBuckets) check(b *c10d.GradBucket) error {
	if last := h.last.Load(); last != nil && b.Index() < len(*last) && (*last)[b.Index()].bucket == b {
		return nil
	}
	return h.note(b)
}

func (h *hookBuckets) note(b *c10d.GradBucket) error {
	form := formOf(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.saved != nil {
		if err := stateFits(b, form, h.saved); err != nil {
			return err
		}
		if b.IsLast() { // the Reducer may rebuild its buckets now, as in the run that was stopped
			h.saved = nil
		}
	}
	next := make([]knownBucket, b.Count())
	if last := h.last.Load(); last != nil {
		if h.unnamed && (len(*last) != b.Count() || (*last)[b.Index()].bucket != nil && (*last)[b.Index()].form != form) {
			return errUnnamed
		}
		copy(next, *last)
	}
	next[b.Index()] = knownBucket{b, form}
	h.last.Store(&next)
	return nil
}

var errUnnamed = errors.New("its state was saved by Python, which does not say with which buckets, and they have changed since the state " +
	"was loaded: what was reduced with the former ones took one bucket's tensors for another's. Load the state and the weights again")

// stateFits returns an error if bucket b differs from the one that the state was saved with.
func stateFits(b *c10d.GradBucket, form bucketForm, saved []bucketForm) error {
	if b.Count() != len(saved) {
		return fmt.Errorf("its state was saved with %d buckets, and now there are %d", len(saved), b.Count())
	}
	switch was := saved[b.Index()]; {
	case form == was:
		return nil
	case form.String() == was.String():
		return fmt.Errorf("its state was saved with a bucket of other parameters, or of these in another order, of %v too", form)
	default:
		return fmt.Errorf("its state was saved with a bucket of %v, and this one has %v", was, form)
	}
}

// forms returns the forms of the last step's buckets, for a file, or nil if one of them is not known:
// sparse buckets have none. Until a step has passed they are those that the loaded state came with.
func (h *hookBuckets) forms() any {
	last := h.last.Load()
	if last == nil {
		return h.loaded()
	}
	list := make([]any, len(*last))
	for i, known := range *last {
		if known.bucket == nil {
			return h.loaded()
		}
		list[i] = known.form.value()
	}
	return list
}

// loaded returns the buckets that expect was given, until a step has passed.
func (h *hookBuckets) loaded() any {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.saved != nil:
	case h.unnamed:
		return unnamed
	default:
		return nil
	}
	list := make([]any, len(h.saved))
	for i, form := range h.saved {
		list[i] = form.value()
	}
	return list
}

// required returns what has expect require of the next step's buckets what this hook does: nil if it
// takes any. A list that begins with unnamed is of buckets that must not change after that step either.
func (h *hookBuckets) required() any {
	h.mu.Lock()
	stay := h.unnamed
	h.mu.Unlock()
	if !stay {
		return h.loaded()
	}
	if list, known := h.forms().([]any); known {
		return append([]any{unnamed}, list...)
	}
	return unnamed
}

// unnamed is what a file has that does not say which buckets its state belongs to: Python's.
const unnamed = "unknown"

// expect sets the forms that the next step's buckets must have, as a file has them, or required returned
// them: unnamed, or nil for any.
func (h *hookBuckets) expect(value any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.saved, h.unnamed = nil, value == unnamed
	h.last.Store(nil) // the next call of each bucket is checked
	list, _ := value.([]any)
	if len(list) > 0 && list[0] == unnamed {
		list, h.unnamed = list[1:], true
	}
	for _, item := range list {
		parts, _ := item.([]any)
		if len(parts) != 3 {
			return errors.New("the saved state's list of buckets cannot be read")
		}
		var form bucketForm
		var ok [3]bool
		form.elements, ok[0] = parts[0].(int64)
		form.dtype, ok[1] = parts[1].(string)
		form.digest, ok[2] = parts[2].(string)
		if ok != [3]bool{true, true, true} {
			return errors.New("the saved state's list of buckets cannot be read")
		}
		h.saved = append(h.saved, form)
	}
	return nil
}

const bucketsHint = "resume with the parameters, BucketCapMB, FirstBucketMB and Layout of the run that saved it. " +
	"With ddp.LayoutRebuilt the first step has other buckets than the later ones: take LayoutFixed and, as Options.Buckets, " +
	"what Reducer.Buckets returned as it was saved, or, for a state that does not depend on buckets, LoadState with pyhook.AnyBuckets()"
