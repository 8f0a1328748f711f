package release_test

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// release is the folder to look at.
func release(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("PYHOOK_RELEASE")
	if folder == "" {
		t.Skip("PYHOOK_RELEASE is not set: scripts/test.sh release builds one and runs this")
	}
	return folder
}

// the is the only file of the release whose name fits.
func the(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(release(t), pattern))
	require.NoError(t, err)
	require.Len(t, found, 1, pattern)
	return found[0]
}

// version is the one in the archives' names.
func version(t *testing.T) string {
	t.Helper()
	name := filepath.Base(the(t, "pyhook-*-linux-"+runtime.GOARCH+".tar.gz"))
	return strings.TrimSuffix(strings.TrimPrefix(name, "pyhook-"), "-linux-"+runtime.GOARCH+".tar.gz")
}

func TestTheChecksumsAreOfAllFiles(t *testing.T) {
	sums, err := os.ReadFile(filepath.Join(release(t), "SHA256SUMS"))
	require.NoError(t, err)
	var want []string
	files, err := os.ReadDir(release(t))
	require.NoError(t, err)
	for _, f := range files {
		if f.Name() != "SHA256SUMS" {
			data, err := os.ReadFile(filepath.Join(release(t), f.Name()))
			require.NoError(t, err)
			want = append(want, fmt.Sprintf("%x  %s", sha256.Sum256(data), f.Name()))
		}
	}
	require.NotEmpty(t, want)
	assert.ElementsMatch(t, want, strings.Split(strings.TrimSpace(string(sums)), "\n"))
}

// unpacked unpacks an architecture's archive into an empty folder and returns
// the folder in it.
func unpacked(t *testing.T, arch string) string {
	t.Helper()
	file, err := os.Open(the(t, "pyhook-*-linux-"+arch+".tar.gz"))
	require.NoError(t, err)
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	require.NoError(t, err)
	assert.True(t, unzipped.ModTime.IsZero(), "no time of packing")
	root := fmt.Sprintf("pyhook-%s-linux-%s", version(t), arch)
	folder, times := t.TempDir(), map[int64]bool{}
	var names []string
	for archive := tar.NewReader(unzipped); ; {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		assert.Equal(t, [4]any{0, 0, "", ""}, [4]any{h.Uid, h.Gid, h.Uname, h.Gname}, h.Name)
		times[h.ModTime.Unix()] = true
		require.True(t, filepath.IsLocal(h.Name), h.Name)
		path := filepath.Join(folder, h.Name)
		if h.Typeflag == tar.TypeDir {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		names = append(names, strings.TrimPrefix(h.Name, root+"/"))
		data, err := io.ReadAll(archive)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, data, h.FileInfo().Mode()))
	}
	assert.Len(t, times, 1, "the commit's time, for all")
	assert.True(t, slices.IsSorted(names), "%v", names)
	names = slices.DeleteFunc(names, func(name string) bool { return name == "LICENSE" })
	assert.Equal(t, []string{"README.md", "completions/pyhook.bash", "completions/pyhook.fish", "completions/pyhook.zsh",
		"licenses.txt", "pyhook"}, names)
	return filepath.Join(folder, root)
}
