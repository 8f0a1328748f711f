package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"pyhook/tests/bench/peers/side"
)

// child is a Python process that takes one bucket after another: the callers wait for their turn.
type child struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	to  io.WriteCloser
	out io.ReadCloser
}

// startChild starts a program of the folder python, with files from descriptor 3 on.
func startChild(files []*os.File, program string, args ...string) (*child, error) {
	cmd := exec.Command(os.Getenv(pythonVariable), append([]string{"-B", pythonFolder + "/" + program}, args...)...)
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, files
	to, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &child{cmd: cmd, to: to, out: out}, cmd.Start()
}

func (c *child) Close() error { return errors.Join(c.to.Close(), c.cmd.Wait()) }

func asBytes(bucket []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(bucket))), 4*len(bucket))
}

// newBuckets are in Go's memory.
func newBuckets(c side.Case) [][]float32 {
	buckets := make([][]float32, c.Callers)
	for i := range buckets {
		buckets[i] = make([]float32, c.Bytes/4)
	}
	return buckets
}

// pipeBench sends each bucket over a pipe, and gets it back over another.
type pipeBench struct {
	*child
	buckets [][]float32
}

func openPipe(_ context.Context, c side.Case) (side.Bench, error) {
	started, err := startChild(nil, "child.py", "pipe", c.Hook, strconv.Itoa(c.Bytes))
	return &pipeBench{started, newBuckets(c)}, err
}

func (b *pipeBench) Bucket(caller int) []float32 { return b.buckets[caller] }

func (b *pipeBench) Call(caller int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	bucket := asBytes(b.buckets[caller])
	if _, err := b.to.Write(bucket); err != nil {
		return err
	}
	_, err := io.ReadFull(b.out, bucket)
	return err
}

// Copied: into the kernel and out of it, there and back.
func (b *pipeBench) Copied() (int64, bool) { return 4 * int64(len(b.buckets[0])) * 4, false }

// shmBench has all buckets in memory that both processes map. What goes over the pipes is a byte.
type shmBench struct {
	*child
	memory []byte
	bytes  int
}

func openShm(_ context.Context, c side.Case) (_ side.Bench, err error) {
	fd, err := unix.MemfdCreate("buckets", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "buckets")
	defer file.Close()
	b := &shmBench{bytes: c.Bytes}
	if err := file.Truncate(int64(c.Bytes * c.Callers)); err != nil {
		return nil, err
	}
	if b.memory, err = unix.Mmap(fd, 0, c.Bytes*c.Callers, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	b.child, err = startChild([]*os.File{file}, "child.py", "shm", c.Hook, strconv.Itoa(c.Bytes), strconv.Itoa(c.Callers))
	return b, err
}

func (b *shmBench) Bucket(caller int) []float32 {
	start := unsafe.Pointer(&b.memory[caller*b.bytes])
	return unsafe.Slice((*float32)(start), b.bytes/4)
}

func (b *shmBench) Call(caller int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	doorbell := []byte{byte(caller)}
	if _, err := b.to.Write(doorbell); err != nil {
		return err
	}
	if _, err := io.ReadFull(b.out, doorbell); err != nil {
		return err
	}
	if doorbell[0] != byte(caller) {
		return fmt.Errorf("bucket %d came back in place of %d", doorbell[0], caller)
	}
	return nil
}

func (b *shmBench) Copied() (int64, bool) { return 0, false }

func (b *shmBench) Close() error { return errors.Join(b.child.Close(), unix.Munmap(b.memory)) }
