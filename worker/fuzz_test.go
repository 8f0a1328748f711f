package worker

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"pyhook/c10d"
	"pyhook/internal/lines"
	"pyhook/internal/testutil"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

// FuzzMessages gives a trainer, or a worker, anything in place of messages: bytes, or
// messages with any content. Descriptors of shared memory come with the first bytes.
// Nothing may crash or hang, allocate without measure, or be left; calls that wait
// end with an answer or a typed error.
func FuzzMessages(f *testing.F) {
	location := &ipc.Location{Region: 1, DType: tensor.Float32, Shape: []int64{4}, Capacity: 4}
	region := &regionMessage{ID: 1, Bytes: 64}
	other := &resultMessage{Call: 1, Outcome: outcomeOther, Tensor: location, Region: region}
	bucket := &bucketMessage{ID: 5, Count: 1, Buffer: location, Offsets: []int64{0}, Lengths: []int64{4}, Sizes: [][]int64{{4}}, Params: []parameterMessage{{ID: 3}}}
	f.Add(false, false, uint8(1), encoded(&message{Kind: kindAnswer, ID: 1, Result: other}, &message{Kind: kindAnswer, ID: 2, Hook: &hookMessage{Name: "h"}}))
	f.Add(false, false, uint8(2), encoded(&message{Kind: kindDone, Result: other}, &message{Kind: kindAnswer, ID: 2, Err: remote(c10d.ErrShort)}))
	f.Add(false, false, uint8(0), encoded(&message{Kind: kindDone, Result: &resultMessage{Call: 1, Outcome: outcomeFailed}, Err: remote(c10d.ErrShort)}))
	// What would crash the trainer, or have it wait for ever, if nobody looked at it.
	for _, m := range []*message{
		{Kind: kindDone},
		{Kind: kindDone, Result: &resultMessage{Call: 2}}, // of what is no call
		{Kind: kindAnswer, ID: 1, Result: &resultMessage{Outcome: outcomeOther}},
		{Kind: kindAnswer, ID: 1, Result: &resultMessage{Outcome: outcomeOther, Tensor: location, Region: &regionMessage{Bytes: 1 << 30}}}, // the memory has 64
		{Kind: kindAnswer, ID: 1, Result: &resultMessage{Outcome: outcomeOther, Region: region, Tensor: &ipc.Location{DType: tensor.Float64, Shape: []int64{1}, Capacity: 1 << 61}}},
	} {
		f.Add(false, false, uint8(1), encoded(m))
	}
	f.Add(true, false, uint8(1), encoded(&message{Kind: kindMap, ID: 1, Region: region}, &message{Kind: kindParameter, Bucket: &bucketMessage{Params: []parameterMessage{{ID: 3, Shape: []int64{4}, DType: tensor.Float32, Data: location}}}},
		&message{Kind: kindBucket, ID: 2, Bucket: bucket}, &message{Kind: kindRun, ID: 3, Run: &runMessage{Bucket: 5}}, &message{Kind: kindCloseBucket, Object: 5}, &message{Kind: kindCloseParameter, Object: 3}, &message{Kind: kindCloseParameter, Object: 3}, &message{Kind: kindUnmap, Object: 1}))
	f.Add(true, false, uint8(0), encoded(&message{Kind: kindCollective, ID: 1, Group: &groupMessage{Op: "all_gather"}}, &message{Kind: kindAdvance, ID: 2, Object: 1},
		&message{Kind: kindCloseChain, ID: 3}, &message{Kind: kindSave, ID: 4}, &message{Kind: kindHook, ID: 5, Hook: &hookMessage{Spec: "noop"}}, &message{Kind: kindStop}))
	f.Add(true, false, uint8(0), encoded(&message{Kind: kindTryDevice, ID: 1, Bucket: bucket}, &message{Kind: kindTryDevice, ID: 2, Bucket: &bucketMessage{Buffer: &ipc.Location{Handle: []byte("cos\nsystem\n."), DType: tensor.Float32, Shape: []int64{1}}}}))
	f.Add(false, true, uint8(1), []byte("\x0c\x01\x01\x03\x04\x04\x00\x02\x04"))
	f.Add(true, true, uint8(1), []byte("\x02\x01\x01\x03\x04\x04\x00\x02\x04\x06\x01\x01\x03"))
	f.Fuzz(func(t *testing.T, toWorker, structured bool, files uint8, data []byte) {
		if structured {
			data = encoded(composed(data)...)
		}
		regions, before := ipc.LiveRegions(), allocated()
		testutil.Within(t, func() {
			if toWorker {
				feedWorker(t, data, int(files%4))
			} else {
				feedTrainer(t, data, int(files%4))
			}
		})
		require.Less(t, allocated()-before, uint64(100<<20)+100*uint64(len(data)))
		for end := time.Now().Add(5 * time.Second); ipc.LiveRegions() > regions && time.Now().Before(end); {
			time.Sleep(100 * time.Microsecond)
		}
		require.LessOrEqual(t, ipc.LiveRegions(), regions, "mapped memory")
	})
}

func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

// encoded is what a wire sends.
func encoded(messages ...*message) []byte {
	var b bytes.Buffer
	e := gob.NewEncoder(&b)
	for _, m := range messages {
		if err := e.Encode(m); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// composed makes messages whose numbers are those of data, most of them small.
func composed(data []byte) (list []*message) {
	next := func() int64 {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		if b < 224 || len(data) < 8 {
			return int64(b % 32)
		}
		n := int64(binary.LittleEndian.Uint64(data))
		data = data[8:]
		return n
	}
	some := func() (s []int64) {
		for range next() % 5 {
			s = append(s, next())
		}
		return s
	}
	piece := func() *ipc.Location {
		if next() == 0 {
			return nil
		}
		return &ipc.Location{Region: uint64(next()), Offset: next(), DType: tensor.DType(next()), Shape: some(), Capacity: next()}
	}
	for len(data) > 0 && len(list) < 8 {
		m := &message{Kind: kind(next()), ID: uint64(next()), Object: uint64(next())}
		set := next() | next()<<3
		if set&1 != 0 {
			m.Result = &resultMessage{Call: uint64(next()), Outcome: uint32(next()), Tensor: piece(), Region: &regionMessage{Bytes: int(next())}}
		}
		if set&2 != 0 {
			m.Region = &regionMessage{ID: uint64(next()), Bytes: int(next())}
		}
		if set&4 != 0 {
			m.Bucket = &bucketMessage{ID: uint64(next()), Index: int(next()), Count: int(next()), Buffer: piece(), Offsets: some(), Lengths: some(), Sizes: [][]int64{some()}}
			m.Bucket.Params = []parameterMessage{{ID: uint64(next()), Shape: some(), DType: tensor.DType(next()), Data: piece()}}
		}
		if set&32 != 0 {
			m.Trace = &traceMessage{Hook: uint64(next()), On: next()&1 != 0, Collective: &c10d.Collective{Bucket: int(next())}}
		}
		if set&8 != 0 {
			m.Group = &groupMessage{Op: []string{"all_reduce", "broadcast", "all_gather", "barrier", "?"}[uint64(next())%5], Root: int(next())}
			if at := piece(); at != nil {
				m.Group.Tensors = append(m.Group.Tensors, *at)
			}
			m.Run = &runMessage{Call: uint64(next()), Hook: uint64(next()), Bucket: uint64(next())}
		}
		if set&16 != 0 {
			m.Err = &remoteError{Text: "text", Codes: []c10d.Code{"?"}, Error: &remoteDetails{Bucket: int(next())}}
			m.Hook, m.Started = &hookMessage{Spec: "noop"}, &startedMessage{Rank: int(next())}
		}
		list = append(list, m)
	}
	return list
}

// connected makes the two ends of a socket, and sends data on the other end, with
// descriptors of 64 bytes of shared memory, to its end.
func connected(t *testing.T, data []byte, files int) *ipc.Conn[message] {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	mine, err := ipc.NewConn[message](os.NewFile(uintptr(pair[0]), "read"))
	require.NoError(t, err)
	file := os.NewFile(uintptr(pair[1]), "fed")
	defer file.Close()
	conn, err := net.FileConn(file)
	require.NoError(t, err)
	theirs := conn.(*net.UnixConn)
	go func() { _, _ = io.Copy(io.Discard, theirs) }() // the answers
	go func() {
		defer theirs.CloseWrite()
		var fds []int
		for range files {
			r, err := ipc.NewRegion(9, 64)
			if err != nil {
				return
			}
			defer r.Close()
			fds = append(fds, int(r.File.Fd()))
		}
		first := min(len(data), 1)
		_, _, _ = theirs.WriteMsgUnix(data[:first], unix.UnixRights(fds...), nil)
		_, _ = theirs.Write(data[first:])
	}()
	t.Cleanup(func() { mine.Close(); theirs.Close() })
	return mine
}

// ended is a process that has.
var ended = func() *exec.Cmd {
	cmd := exec.Command("true")
	_ = cmd.Run()
	return cmd
}()

// feedTrainer has the trainer's side read data, while a hook call and a question
// wait.
func feedTrainer(t *testing.T, data []byte, files int) {
	cfg := &Config{}
	cfg.setDefaults()
	traced := &Worker{hooks: []*Hook{{id: 7, onCollective: func(c10d.Collective) {}}}}
	p := &process{cfg: cfg, cmd: ended, calls: map[uint64]*call{}, mapped: map[uint64]bool{}, trace: traced.trace, dead: make(chan struct{}), read: make(chan struct{}), tail: &lines.Tail{}}
	var err error
	p.page, err = ipc.NewRegion(0, vitalsBytes)
	require.NoError(t, err)
	p.wire = connected(t, data, files)
	answers := make(chan answer, 100)
	called, asked := &call{hook: "h", bucket: 0, done: func(a answer) { answers <- a }}, &call{hook: "a question", bucket: -1}
	for _, c := range []*call{called, asked} {
		require.NoError(t, p.open(c))
	}
	go p.receive()
	<-p.read
	p.fail()
	for _, c := range []*call{called, asked} {
		answers <- <-c.answered
	}
	for len(answers) > 0 {
		a := <-answers
		if a.tensor != nil {
			read, err := tensor.RawBytes(a.tensor)
			require.NoError(t, err)
			require.LessOrEqual(t, len(bytes.Clone(read)), 4096)
			a.tensor.Close()
		}
	}
}

// feedWorker has the worker's side read data, as one that has been asked to start.
func feedWorker(t *testing.T, data []byte, files int) {
	page, err := ipc.NewRegion(0, vitalsBytes)
	require.NoError(t, err)
	defer page.Close()
	s := newServer(connected(t, data, files), vitalsIn(page), nil)
	s.started = true
	_ = s.serve()
	s.wire.Drop()
	for _, b := range s.buckets {
		if b.buffer.Len() > 0 {
			read, err := tensor.RawBytes(b.buffer)
			require.NoError(t, err)
			require.LessOrEqual(t, len(bytes.Clone(read)), 4096)
		}
		b.close()
	}
	for _, p := range s.params {
		p.Data.Close()
	}
	for _, r := range s.regions {
		r.Close()
	}
}
