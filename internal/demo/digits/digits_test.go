package digits

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func load(t testing.TB) Dataset {
	t.Helper()
	d, err := Load()
	require.NoError(t, err)
	return d
}

// row returns a good line with label, column (from 1) replaced by value.
func row(column int, value string) string {
	fields := slices.Repeat([]string{"0"}, Features+1)
	fields[column-1] = value
	return strings.Join(fields, ",")
}

func TestTheEmbeddedDigitsAreComplete(t *testing.T) {
	d := load(t)
	require.Equal(t, 1797, d.Len())
	require.Len(t, d.X, 1797*Features)
	counts := make([]int, Classes)
	for _, y := range d.Y {
		counts[y]++
	}
	// scikit-learn documents about 180 of each class.
	assert.Equal(t, []int{178, 182, 177, 183, 181, 182, 181, 179, 174, 180}, counts)
	assert.Equal(t, float32(5.0/16), d.Row(0)[2])
	assert.Equal(t, float32(0), slices.Min(d.X))
	assert.Equal(t, float32(1), slices.Max(d.X))
}

func TestAUsersFileIsReadPlainOrGzipped(t *testing.T) {
	text := row(1, "16") + "\r\n\n" + row(65, "9.000000000000000000e+00") + "\n"
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())

	for name, content := range map[string][]byte{"plain": []byte(text), "gzipped": gz.Bytes()} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "own.csv")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			d, err := Open(path)
			require.NoError(t, err)
			assert.Equal(t, []uint8{0, 9}, d.Y)
			assert.Equal(t, float32(1), d.X[0])
		})
	}
}

func TestAMalformedRowIsNamedByLineAndColumn(t *testing.T) {
	for name, tc := range map[string]struct {
		line   string
		column int
		reason string
	}{
		"a word":                {row(3, "x"), 3, "not a number"},
		"an empty value":        {row(4, ""), 4, "not a number"},
		"a pixel above 16":      {row(5, "17"), 5, "from 0 to 16"},
		"a negative pixel":      {row(64, "-1"), 64, "from 0 to 16"},
		"a pixel that is NaN":   {row(1, "NaN"), 1, "from 0 to 16"},
		"a label of 10":         {row(65, "10"), 65, "from 0 to 9"},
		"a label that is NaN":   {row(65, "nan"), 65, "from 0 to 9"},
		"a fractional label":    {row(65, "1.5"), 65, "whole number"},
		"a value too few":       {strings.TrimSuffix(row(1, "0"), ",0"), 0, "64 values, want 65"},
		"a value too many":      {row(1, "0") + ",0", 0, "66 values, want 65"},
		"an endless line":       {strings.Repeat("0", maxLine+1), 0, "longer than"},
		"a long wrong value":    {row(2, strings.Repeat("z", 99)), 2, "not a number"},
		"a header":              {"pixel0,pixel1,label", 0, "3 values, want 65"},
		"a value out of double": {row(7, "1e999"), 7, "not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.csv")
			require.NoError(t, os.WriteFile(path, []byte(row(1, "1")+"\n"+tc.line+"\n"), 0o600))
			_, err := Open(path)
			var rowErr *RowError
			require.ErrorAs(t, err, &rowErr)
			assert.Equal(t, path, rowErr.Source)
			assert.Equal(t, 2, rowErr.Line)
			assert.Equal(t, tc.column, rowErr.Column)
			assert.Contains(t, err.Error(), tc.reason)
			assert.Less(t, len(err.Error()), len(path)+200)
		})
	}
}

func TestAMissingEmptyOrTornFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "missing"))
	assert.ErrorIs(t, err, fs.ErrNotExist)

	empty := filepath.Join(dir, "empty.csv")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	_, err = Open(empty)
	assert.ErrorIs(t, err, ErrEmpty)

	torn := filepath.Join(dir, "torn.csv.gz")
	require.NoError(t, os.WriteFile(torn, embedded[:len(embedded)/2], 0o600))
	_, err = Open(torn)
	var rowErr *RowError
	require.Error(t, err)
	if !errors.As(err, &rowErr) { // the tear may cut a line short first
		assert.Contains(t, err.Error(), "unexpected EOF")
	}
}

func TestASplitIsAPartitionAndDependsOnTheSeedAlone(t *testing.T) {
	d := load(t)
	train, test, err := d.Split(0.2, 7)
	require.NoError(t, err)
	assert.Equal(t, 359, test.Len())
	assert.Equal(t, 1797-359, train.Len())

	rows := func(sets ...Dataset) []string {
		var out []string
		for _, s := range sets {
			for i, y := range s.Y {
				raw, err := binary.Append([]byte{y}, binary.LittleEndian, s.Row(i))
				require.NoError(t, err)
				out = append(out, string(raw))
			}
		}
		slices.Sort(out)
		return out
	}
	assert.Equal(t, rows(d), rows(train, test))

	again, _, err := d.Split(0.2, 7)
	require.NoError(t, err)
	assert.Equal(t, train, again)
	other, _, err := d.Split(0.2, 8)
	require.NoError(t, err)
	assert.NotEqual(t, train.Y, other.Y)
}

func TestTheShufflesAreTheSameOnEveryMachine(t *testing.T) {
	d := load(t)
	_, test, err := d.Split(0.2, 1)
	require.NoError(t, err)
	sum := sha256.Sum256(test.Y)
	assert.Equal(t, "ab0d291335d9de1d", hex.EncodeToString(sum[:8]))

	b, err := d.Batches(1, 3, 64, 1, 4)
	require.NoError(t, err)
	assert.Equal(t, []int{187, 1006, 1680, 1622}, b.Indices(0)[:4])
}

func TestASplitRefusesWhatLeavesAPartEmpty(t *testing.T) {
	d := load(t)
	for _, fraction := range []float64{0, 1, -1, 2} {
		_, _, err := d.Split(fraction, 0)
		assert.Error(t, err, fraction)
	}
	_, _, err := Dataset{}.Split(0.5, 0)
	assert.Error(t, err)

	train, test, err := d.Split(1e-9, 0)
	require.NoError(t, err)
	assert.Equal(t, []int{1796, 1}, []int{train.Len(), test.Len()})
}

func TestRanksTakeDisjointPartsOfTheBatchThatOneRankWouldSee(t *testing.T) {
	d := load(t)
	const globalBatch = 60
	for _, world := range []int{1, 2, 3, 4, 5} {
		alone, err := d.Batches(9, 2, globalBatch, 0, 1)
		require.NoError(t, err)
		var ranks []*Batches
		for rank := range world {
			b, err := d.Batches(9, 2, globalBatch, rank, world)
			require.NoError(t, err)
			assert.Equal(t, 29, b.Len())
			assert.Equal(t, globalBatch/world, b.LocalBatch())
			ranks = append(ranks, b)
		}
		seen := map[int]bool{}
		for step := range alone.Len() {
			var union []int
			for _, b := range ranks {
				union = append(union, b.Indices(step)...)
			}
			assert.Equal(t, alone.Indices(step), union)
			for _, i := range union {
				assert.False(t, seen[i], "digit %d twice in an epoch", i)
				seen[i] = true
			}
		}
		assert.Len(t, seen, 29*globalBatch)
	}
}

func TestIterationYieldsTheRowsOfTheIndices(t *testing.T) {
	d := load(t)
	b, err := d.Batches(1, 0, 64, 1, 2)
	require.NoError(t, err)
	steps := 0
	for step, batch := range b.All() {
		require.Equal(t, steps, step)
		require.Len(t, batch.Y, 32)
		for i, from := range b.Indices(step) {
			require.Equal(t, d.Row(from), batch.X[i*Features:(i+1)*Features])
			require.Equal(t, d.Y[from], batch.Y[i])
		}
		steps++
	}
	assert.Equal(t, b.Len(), steps)
	for step := range b.All() { // breaking off must be allowed
		if step == 1 {
			break
		}
	}
}

func TestEpochsAreShuffledDifferently(t *testing.T) {
	d := load(t)
	a, err := d.Batches(1, 0, 64, 0, 1)
	require.NoError(t, err)
	b, err := d.Batches(1, 1, 64, 0, 1)
	require.NoError(t, err)
	assert.NotEqual(t, a.Indices(0), b.Indices(0))
	assert.Panics(t, func() { a.Indices(a.Len()) })
}

func TestBatchesThatCannotBeEqualAreRefused(t *testing.T) {
	d := load(t)
	for name, a := range map[string][4]int{ // epoch, globalBatch, rank, world
		"an indivisible batch":  {0, 64, 0, 3},
		"no batch":              {0, 0, 0, 1},
		"a rank out of range":   {0, 64, 2, 2},
		"a negative rank":       {0, 64, -1, 2},
		"no ranks":              {0, 64, 0, 0},
		"a negative epoch":      {-1, 64, 0, 1},
		"more than the dataset": {0, 1800, 0, 1},
	} {
		_, err := d.Batches(0, a[0], a[1], a[2], a[3])
		assert.Error(t, err, name)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(row(1, "16") + "\n"))
	f.Add(embedded[:200])
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parse("fuzz", bytes.NewReader(raw))
		if err != nil {
			return
		}
		require.NotEmpty(t, d.Y)
		require.Len(t, d.X, len(d.Y)*Features)
		for _, x := range d.X {
			require.True(t, x >= 0 && x <= 1)
		}
		require.Less(t, slices.Max(d.Y), uint8(Classes))
	})
}
