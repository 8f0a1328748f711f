package worker

import (
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

// message is one of either side. A request has an ID that its answer repeats; one
// with ID 0 is not answered. Of the pointers those are set that the kind needs.
type message struct {
	Kind kind
	ID   uint64
	Err  *remoteError // of an answer

	Start    *startMessage
	Started  *startedMessage
	Region   *regionMessage
	Bucket   *bucketMessage
	Hook     *hookMessage
	Run      *runMessage
	Result   *resultMessage
	Group    *groupMessage
	Trace    *traceMessage
	Object   uint64 // what is closed, advanced, saved
	Bytes    []byte // a state
	More     bool   // of Chain.Advance
	TrustAny bool   // TrustState, of a state that is restored by this program
	Own      bool   // kindSave: a snapshot, for this run
}

type kind uint8

const (
	kindAnswer         kind = iota
	kindStart               // Start: -> Started
	kindMap                 // Region, and a descriptor
	kindUnmap               // Object: a region
	kindParameter           // Bucket.Params[0]
	kindCloseParameter      // Object
	kindBucket              // Bucket
	kindCloseBucket         // Object
	kindHook                // Hook: -> its name in Hook
	kindCloseHook           // Object
	kindRun                 // Run: -> Result
	kindDone                // Result, of a call that was pending; from the worker
	kindAdvance             // Object, a call: -> More
	kindCloseChain          // Object, a call
	kindSave                // Object, a hook: -> Bytes
	kindRestore             // Object, a hook, and Bytes
	kindCollective          // Group
	kindStop                // end orderly
	kindTrace               // Trace
	kindComplex             // Object, a hook: -> Err, if its torch has no complex parameters
	kindTryDevice           // Bucket.Buffer, on a device: NaN is written there
	numKinds                // how many there are
)

// startMessage is what a worker needs to start Python and to join the others.
type startMessage struct {
	Python, Library     string
	Path                []string
	Backend, InitMethod string
	Rank, Size          int
	Timeout             time.Duration // of the group
}

type startedMessage struct {
	Info       pyhook.Info
	Thread     int // the OS thread that gets the signal for the stacks
	Rank, Size int
	Backend    string
}

type regionMessage struct {
	ID    uint64
	Bytes int
}

type parameterMessage struct {
	ID    uint64 // in a bucketMessage nothing else is set
	Name  string
	Shape []int64
	DType tensor.DType
	// Device is where its gradient is, as c10d.Parameter's.
	Device tensor.Device
	Data   *ipc.Location
	// Attributes hold what HookConfig.State may.
	Attributes map[string]any
}

type bucketMessage struct {
	ID               uint64
	Index, Count     int
	Buffer           *ipc.Location
	Offsets, Lengths []int64
	Sizes            [][]int64
	Params           []parameterMessage // of each gradient
}

type hookMessage struct {
	ID    uint64
	Spec  string
	State any // a value of HookConfig.State
	// Params are the model's, in order; the hook was made with none where it is nil.
	Params  []uint64
	Futures pyhook.FutureForms
	// In the answer:
	Name        string
	Independent bool         // c10d.IndependentHook's
	HasState    bool         // c10d.RestorableHook's
	Order       *remoteError // why that is not known
}

type runMessage struct {
	Call, Hook, Bucket uint64
	Chained            bool
}

// resultMessage is what came of a call.
type resultMessage struct {
	Call    uint64
	Outcome uint32
	// Tensor is what came with outcomeOther: in a region of its own, whose
	// descriptor comes with the message.
	Tensor *ipc.Location
	Region *regionMessage
}

const (
	outcomeNone    uint32 = iota
	outcomeSame           // done: the bucket's own memory
	outcomePending        // kindDone follows
	outcomeOther          // done: Tensor
	outcomeFailed         // Err
)

type groupMessage struct {
	Op      string // "all_reduce", "broadcast", "all_gather", "barrier"
	Reduce  c10d.ReduceOp
	Root    int
	Tensors []ipc.Location // of all_gather: the outputs, then the input
}

// check says whether a message has what its kind needs: it comes from another
// process, where a hook may have done anything to memory.
func (m *message) check() error {
	ok := m.Kind < numKinds
	switch m.Kind {
	case kindStart:
		ok = m.Start != nil
	case kindMap:
		ok = m.Region != nil
	case kindParameter:
		ok = m.Bucket != nil && len(m.Bucket.Params) == 1
	case kindBucket, kindTryDevice:
		ok = m.Bucket != nil && m.Bucket.Buffer != nil
	case kindHook:
		ok = m.Hook != nil
	case kindRun:
		ok = m.Run != nil
	case kindDone:
		ok = m.Result != nil
	case kindCollective:
		ok = m.Group != nil
	case kindTrace:
		ok = m.Trace != nil
	}
	if m.Result != nil && m.Result.Outcome == outcomeOther {
		ok = ok && m.Result.Tensor != nil && m.Result.Region != nil
	}
	if !ok {
		return fmt.Errorf("a message of kind %d is incomplete, or not known", m.Kind)
	}
	return nil
}

func init() {
	// What a state's arguments may hold: see HookConfig.
	for _, v := range []any{map[string]any{}, []any{}, State{}, groupState{}, json.Number("")} {
		gob.Register(v)
	}
}

// canBeSent returns why a value of the trainer's cannot be part of a message. One that could not be
// sent would leave the connection of no use.
func canBeSent(value any) error {
	if err := gob.NewEncoder(io.Discard).Encode(&message{Hook: &hookMessage{State: value}}); err != nil {
		return fmt.Errorf("it cannot be sent to the worker: give booleans, numbers, text, bytes, []any and map[string]any: %w", err)
	}
	return nil
}

// groupState stands for the worker's *Group.
type groupState struct{ Group bool }
