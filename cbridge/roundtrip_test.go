package cbridge

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// builder makes a nested Go value out of bytes, of the types that come back
// from Python as they went.
type builder struct{ data []byte }

func (b *builder) bytes(n int) []byte {
	out := make([]byte, n)
	b.data = b.data[copy(out, b.data):]
	return out
}

func (b *builder) number() uint64 { return binary.LittleEndian.Uint64(b.bytes(8)) }

func (b *builder) value(depth int) any {
	kind := b.bytes(1)[0]
	if depth > 8 {
		kind %= 7
	}
	switch kind % 9 {
	case 0:
		return nil
	case 1:
		return kind&64 != 0
	case 2:
		return int64(b.number())
	case 3:
		return b.number() | 1<<63 // a smaller one comes back as an int64
	case 4:
		f := math.Float64frombits(b.number())
		if math.IsNaN(f) {
			return 0.5 // no NaN equals itself
		}
		return f
	case 5:
		return string(b.bytes(int(kind / 9)))
	case 6:
		return b.bytes(int(kind / 9))
	case 7:
		list := []any{}
		for range kind / 32 {
			list = append(list, b.value(depth+1))
		}
		return list
	default:
		m := map[any]any{}
		for range kind / 32 {
			if key := b.number(); key&1 == 0 {
				m[int64(key)] = b.value(depth + 1)
			} else {
				m[string(b.bytes(int(key>>8)%16))] = b.value(depth + 1)
			}
		}
		return m
	}
}

func TestConvert_Random(t *testing.T) {
	t.Run("nested values come back as they went", func(t *testing.T) {
		seed := rand.Uint64()
		random := rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), seed)))
		leaks.Check(t, func() {
			for range max(often(2000), 100) {
				data := make([]byte, 512)
				_, _ = random.Read(data)
				data[0] = 7 + 9*27 // begin with a list of seven
				v := (&builder{data}).value(0)
				require.Equal(t, v, roundTrip(t, v), "seed %d", seed)
			}
		})
	})
}

func FuzzConvert(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{250, 0, 1, 65, 2, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Add([]byte("\xfa\x2f\xff\xfe\x00\xed\xa0\x80\xfb\x06\x07\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects := LiveObjects()
		v := (&builder{data}).value(0)
		assert.Equal(t, v, roundTrip(t, v))
		assert.Equal(t, objects, LiveObjects())
	})
}
