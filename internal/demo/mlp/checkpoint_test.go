package mlp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func saved(t testing.TB, c *Checkpoint) []byte {
	t.Helper()
	var buf bytes.Buffer
	require.NoError(t, c.Save(&buf))
	return buf.Bytes()
}

// seal replaces the digest at raw's end by that of the bytes before it.
func seal(raw []byte) []byte {
	body := raw[:len(raw)-sha256.Size]
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

func smallCheckpoint() *Checkpoint {
	n := New([]int{3, 4, 2}, 1)
	opt := &SGD{LR: 0.1, Momentum: 0.9}
	_ = opt.Step(n.Params(), cloneAll(n.Checkpoint(opt, 0).Params))
	c := n.Checkpoint(opt, 7)
	c.Meta = []byte(`{"seed":1}`)
	return c
}

func TestACheckpointComesBackAsItWas(t *testing.T) {
	with := smallCheckpoint()
	without := New([]int{3, 2}, 1).Checkpoint(&SGD{}, 0)
	for name, c := range map[string]*Checkpoint{"with momentum and meta": with, "without": without} {
		t.Run(name, func(t *testing.T) {
			got, err := Load(iotest.OneByteReader(bytes.NewReader(saved(t, c))))
			require.NoError(t, err)
			assert.Equal(t, c, got)
		})
	}
}

func TestTrainingResumedFromACheckpointIsTheSameBitForBit(t *testing.T) {
	sizes := []int{8, 16, 4}
	x, y := randomBatch(1, 16, 8, 4)
	steps := func(n *Network, opt *SGD, count int) {
		grads := newGrads(n, 0)
		for range count {
			_, err := n.Backward(x, y, grads, nil)
			require.NoError(t, err)
			require.NoError(t, opt.Step(n.Params(), grads))
		}
	}
	through, opt := New(sizes, 1), &SGD{LR: 0.1, Momentum: 0.9}
	steps(through, opt, 5)
	file := saved(t, through.Checkpoint(opt, 5))
	steps(through, opt, 5)

	c, err := Load(bytes.NewReader(file))
	require.NoError(t, err)
	assert.Equal(t, uint64(5), c.Step)
	resumed, opt2 := New(sizes, 99), &SGD{LR: 0.1, Momentum: 0.9}
	params := resumed.Params() // taken before Restore, still good after
	require.NoError(t, c.Restore(resumed, opt2))
	assert.Equal(t, c.Params[0], params[0].Value)
	steps(resumed, opt2, 5)
	assert.Equal(t, through.Checksum(), resumed.Checksum())
	assert.NotEqual(t, c.Params[0], params[0].Value, "the checkpoint must be a copy")
}

func TestACheckpointOfAnotherNetworkIsRefusedWhole(t *testing.T) {
	n, opt := New([]int{3, 5, 2}, 1), &SGD{}
	before := n.Checksum()
	assert.ErrorContains(t, smallCheckpoint().Restore(n, opt), "layer sizes [3 4 2], not [3 5 2]")

	c := smallCheckpoint()
	c.Velocity[1] = nil
	n = New(c.Sizes, 1)
	assert.ErrorAs(t, c.Restore(n, opt), new(*ShapeError))
	assert.ErrorAs(t, c.Save(io.Discard), new(*ShapeError))
	assert.Equal(t, before, New([]int{3, 5, 2}, 1).Checksum())
	assert.Nil(t, opt.Velocity)
}

func TestAnyFlippedByteOrCutIsCorrupt(t *testing.T) {
	good := saved(t, smallCheckpoint())
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		_, err := Load(bytes.NewReader(bad))
		require.ErrorAs(t, err, new(*CorruptError), "byte %d flipped", i)
		_, err = Load(bytes.NewReader(good[:i]))
		require.ErrorAs(t, err, new(*CorruptError), "cut at %d", i)
	}
	_, err := Load(bytes.NewReader(append(good, 0)))
	assert.ErrorAs(t, err, new(*CorruptError))
}

func TestALaterVersionIsToldFromCorruption(t *testing.T) {
	raw := saved(t, smallCheckpoint())
	binary.LittleEndian.PutUint32(raw[len(checkpointMagic):], 2)
	_, err := Load(bytes.NewReader(seal(raw)))
	var version *VersionError
	require.ErrorAs(t, err, &version)
	assert.Equal(t, VersionError{Got: 2, Known: 1}, *version)
}

func TestReadersAndWritersErrorsComeThrough(t *testing.T) {
	broken := errors.New("disk on fire")
	_, err := Load(iotest.ErrReader(broken))
	assert.ErrorIs(t, err, broken)

	size := len(saved(t, smallCheckpoint()))
	for _, room := range []int{0, 60, size - 1} {
		assert.ErrorIs(t, smallCheckpoint().Save(&fullWriter{room, broken}), broken)
	}
}

type fullWriter struct {
	room int
	err  error
}

func (w *fullWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, w.err
	}
	return len(p), nil
}

// FuzzLoad tries each input as it is, and with a matching digest so that the decoder
// behind it is reached. What loads must save to the same bytes.
func FuzzLoad(f *testing.F) {
	f.Add(saved(f, smallCheckpoint()))
	f.Add(saved(f, New([]int{1, 2}, 0).Checkpoint(&SGD{}, 1)))
	f.Add([]byte(checkpointMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		inputs := [][]byte{raw}
		if len(raw) >= sha256.Size {
			inputs = append(inputs, seal(raw))
		}
		for _, in := range inputs {
			c, err := Load(bytes.NewReader(in))
			if err != nil {
				var corrupt *CorruptError
				var version *VersionError
				require.True(t, errors.As(err, &corrupt) || errors.As(err, &version), "%v", err)
				continue
			}
			require.Equal(t, in, saved(t, c))
		}
	})
}
