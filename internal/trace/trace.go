// Package trace reads recordings of communication hooks, which pyhook.record writes in a PyTorch job
// (docs/trace-format.md). It believes nothing: manifests are checked against the schema, offsets and
// sizes against the files, and a name that leads out of the folder is refused. It reads tensors into
// memory that the caller has, one at a time, so a recording of any size needs no more than that.
package trace

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Rank is one rank's recording. Close it. One goroutine at a time.
type Rank struct {
	*Manifest
	path string
	root *os.Root
}

// RankPath is the folder of a rank.
func RankPath(folder string, rank int) string {
	return filepath.Join(folder, "rank"+strconv.Itoa(rank))
}

// maxManifest bounds what is read of a manifest: some thousand steps of a thousand buckets.
const maxManifest = 1 << 30

// OpenRank opens one rank's recording. The error is an *Error.
func OpenRank(folder string, rank int) (*Rank, error) {
	path := RankPath(folder, rank)
	root, err := os.OpenRoot(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, missing(folder, rank)
		}
		return nil, &Error{Path: path, Detail: "it cannot be opened", Hint: "it must be the folder of a rank, which this user may read", Err: err}
	}
	return openFolder(root, path, rank)
}

// openFolder is OpenRank in a folder that is open.
func openFolder(root *os.Root, path string, rank int) (*Rank, error) {
	r := &Rank{path: path, root: root}
	data, err := r.read("manifest.json", maxManifest)
	if err == nil {
		r.Manifest, err = parseManifest(filepath.Join(path, "manifest.json"), data)
	}
	if err == nil && r.Rank != rank {
		err = &Error{Path: path, Detail: fmt.Sprintf("its manifest is that of rank %d", r.Rank), Hint: "the folder was renamed, or copied over another"}
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return r, nil
}

// missing says which ranks are there where one is not.
func missing(folder string, rank int) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return &Error{Path: folder, Detail: "there is no such folder", Hint: "give the folder that pyhook.record wrote to", Err: nil}
	}
	var there []string
	for _, e := range entries {
		number, is := strings.CutPrefix(e.Name(), "rank")
		if !is {
			continue
		}
		there = append(there, e.Name())
		other, err := strconv.Atoi(number)
		if err != nil || other == rank {
			continue
		}
		path := RankPath(folder, other)
		root, err := os.OpenRoot(path)
		if err != nil {
			continue
		}
		if r, err := openFolder(root, path, other); err == nil {
			r.Close()
			if rank >= r.WorldSize {
				return &Error{Path: folder, Detail: fmt.Sprintf("there is no rank %d: %d ranks were recorded, numbered from 0", rank, r.WorldSize)}
			}
		}
	}
	if len(there) == 0 {
		return &Error{Path: folder, Detail: "it holds no recording: no folder rank0", Hint: "give the folder that pyhook.record wrote to"}
	}
	return &Error{
		Path: folder, Detail: fmt.Sprintf("rank %d is missing; there are %s", rank, strings.Join(there, ", ")),
		Hint: "each host writes the ranks that ran there: copy them into one folder, or replay those that are there by --ranks",
	}
}

// Open opens the recordings of ranks, or of all ranks that rank 0 knows of where ranks is empty. The
// caller closes them. The error is an *Error, also where a recording is of another job than the
// first.
func Open(folder string, ranks []int) (all []*Rank, err error) {
	defer func() {
		if err != nil {
			for _, r := range all {
				r.Close()
			}
			all = nil
		}
	}()
	if len(ranks) == 0 {
		first, err := OpenRank(folder, 0)
		if err != nil {
			return nil, err
		}
		first.Close()
		for rank := range first.WorldSize {
			ranks = append(ranks, rank)
		}
	}
	for _, rank := range ranks {
		r, err := OpenRank(folder, rank)
		if err != nil {
			return all, err
		}
		all = append(all, r)
		if first := all[0]; r.WorldSize != first.WorldSize || r.Hook.Name != first.Hook.Name || r.State.Class != first.State.Class {
			return all, &Error{
				Path:   r.path,
				Detail: fmt.Sprintf("rank %d recorded %s on %d ranks, and rank %d %s on %d", r.Rank, r.Hook.Name, r.WorldSize, first.Rank, first.Hook.Name, first.WorldSize),
				Hint:   "the ranks are of different jobs: record all of them into a new folder",
			}
		}
	}
	return all, nil
}

// Common returns the numbers of the steps that all ranks have.
func Common(ranks []*Rank) (steps []int) {
	lists := make([][]int, len(ranks))
	for i, r := range ranks {
		for _, s := range r.Steps {
			lists[i] = append(lists[i], s.Step)
		}
	}
	return CommonOf(lists)
}

// CommonOf returns what is in all lists, each of which ascends.
func CommonOf(lists [][]int) (common []int) {
	if len(lists) == 0 {
		return nil
	}
	for _, n := range lists[0] {
		if !slices.ContainsFunc(lists[1:], func(list []int) bool { return !slices.Contains(list, n) }) {
			common = append(common, n)
		}
	}
	return common
}

// BucketsOf is a digest of a step's buckets, which are the same on all ranks of a job: what the gradients in
// them are, and not which parameters they are of.
func (m *Manifest) BucketsOf(s *Step) uint64 {
	digest := fnv.New64a()
	for _, c := range s.Calls {
		if c.Skipped != "" {
			fmt.Fprint(digest, "skipped;")
			continue
		}
		layout := &m.Layouts[c.Layout]
		fmt.Fprint(digest, layout.DType)
		for _, g := range layout.Gradients {
			fmt.Fprint(digest, g.Shape)
		}
		fmt.Fprint(digest, ";")
	}
	return digest.Sum64()
}

// StepAt returns the recorded step of that number, or nil.
func (m *Manifest) StepAt(number int) *Step {
	for i := range m.Steps {
		if m.Steps[i].Step == number {
			return &m.Steps[i]
		}
	}
	return nil
}

// maxState bounds the file of a state, which is read whole.
const maxState = 64 << 30

// ReadState returns the bytes of a state's file.
func (r *Rank) ReadState(name string) ([]byte, error) { return r.read(name, maxState) }

// Path is where the rank's recording is.
func (r *Rank) Path() string { return r.path }

// Close closes the folder. Idempotent.
func (r *Rank) Close() { r.root.Close() }

// open opens a regular file of the folder: os.Root refuses what leads out of it, by links too.
func (r *Rank) open(name string) (*os.File, int64, error) {
	path := filepath.Join(r.path, name)
	// A pipe would keep Open from returning; of a regular file reads wait as without O_NONBLOCK.
	file, err := r.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, &Error{Path: path, Detail: "the file is missing", Hint: "the recording was copied in part; copy all of it"}
		}
		return nil, 0, &Error{Path: path, Detail: "it cannot be opened", Err: err}
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		file.Close()
		return nil, 0, &Error{Path: path, Detail: "it cannot be read", Err: err}
	}
	return file, info.Size(), nil
}

func (r *Rank) read(name string, limit int64) ([]byte, error) {
	file, size, err := r.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > limit {
		return nil, &Error{Path: filepath.Join(r.path, name), Detail: fmt.Sprintf("it has %d bytes, more than any such file", size)}
	}
	data, err := io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return nil, &Error{Path: filepath.Join(r.path, name), Detail: "it cannot be read", Err: err}
	}
	return data, nil
}
