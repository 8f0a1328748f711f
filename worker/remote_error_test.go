package worker

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// travelled is err as the trainer sees it.
func travelled(t *testing.T, err error) error {
	t.Helper()
	var m message
	require.NoError(t, gob.NewDecoder(bytes.NewReader(encoded(&message{Kind: kindAnswer, ID: 1, Err: remote(err)}))).Decode(&m))
	return m.Err.local()
}

func TestRemoteError_EveryCode(t *testing.T) {
	codes := c10d.Codes()
	require.Greater(t, len(codes), 60)
	for _, code := range codes {
		failed := &c10d.Error{Op: "hook h", Rank: 1, Bucket: 2, Code: code, Also: []c10d.Code{c10d.ErrPeer}, Detail: "d", Hint: "do", Stacks: "s"}
		for name, err := range map[string]error{
			"alone":    code,
			"wrapped":  fmt.Errorf("joining: %w", code),
			"an Error": failed,
			"in a list": &c10d.Error{Op: "all_reduce", Rank: -1, Bucket: -1, Code: c10d.ErrGroup,
				Also: []c10d.Code{code}},
			"the cause of another": fmt.Errorf("step 3: %w", failed),
		} {
			got := travelled(t, err)
			assert.Equal(t, err.Error(), got.Error(), "%s, %s", code, name)
			assert.ErrorIs(t, got, code, name)
			assert.Equal(t, c10d.CodesOf(err), c10d.CodesOf(got), "%s, %s: no more and no fewer", code, name)
			for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
				assert.Equal(t, errors.Is(err, ended), errors.Is(got, ended), "%s, %s", code, name)
			}
			var here, there *c10d.Error
			require.Equal(t, errors.As(err, &here), errors.As(got, &there), "%s, %s", code, name)
			if here != nil {
				bare := *there
				bare.Err = nil
				assert.Equal(t, *here, bare, "%s, %s", code, name)
			}
		}
	}
}

func TestRemoteError_OfOtherPackages(t *testing.T) {
	for _, c := range []struct{ err, is error }{
		{context.Canceled, context.Canceled},
		{fmt.Errorf("waiting: %w", context.DeadlineExceeded), context.DeadlineExceeded},
		{tensor.ErrClosed, c10d.ErrClosed},
		{errors.New("no code"), nil},
	} {
		got := travelled(t, c.err)
		assert.Equal(t, c.err.Error(), got.Error())
		if c.is != nil {
			assert.ErrorIs(t, got, c.is)
			assert.Len(t, c10d.CodesOf(got), 1)
		} else {
			assert.Empty(t, c10d.CodesOf(got))
		}
	}
	assert.NoError(t, travelled(t, nil))
	assert.NoError(t, remote(nil).local())
}

func TestRemoteError_Exception(t *testing.T) {
	python := &pyhook.PythonError{Type: "ValueError", Message: "out of cheese", Traceback: "File x", Bases: []string{"Exception"}}
	for _, err := range []error{
		&c10d.Error{Op: "hook h", Rank: 1, Bucket: 2, Code: c10d.ErrShort, Detail: "d", Hint: "do", Err: python},
		fmt.Errorf("%w: joining: %w", c10d.ErrGroup, python),
	} {
		got := travelled(t, err)
		assert.Equal(t, err.Error(), got.Error())
		assert.Equal(t, errors.Is(err, c10d.ErrBadResult), errors.Is(got, c10d.ErrBadResult))
		assert.Equal(t, errors.Is(err, c10d.ErrGroup), errors.Is(got, c10d.ErrGroup))
		assert.ErrorIs(t, got, pyhook.Exception("Exception"))
		var there *pyhook.PythonError
		require.ErrorAs(t, got, &there)
		assert.Equal(t, python, there)
		if errors.As(err, new(*c10d.Error)) {
			assert.Equal(t, fmt.Sprintf("%+v", err), fmt.Sprintf("%+v", got), "with the traceback")
		}
	}
}
