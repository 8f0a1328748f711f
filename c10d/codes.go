package c10d

import "context"

// UsableAgain says what a failed call leaves. A next step works in a world of one rank only: of
// several, others may wait in the collectives of this one, until a Reducer's Recover.
const UsableAgain = "a lone rank may call the hook again; several do the step again by ddp.Retry, or call Reducer.Recover first"

// codes is the table of all codes. A new code is a row here and a name in error.go; Python's
// python/pyhook/_errors.py raises with the same words, which a test compares.
var codes = map[Code]struct {
	text    string
	hint    string
	parents []Code
	is      error
}{
	ErrRaised:        {text: "the hook raised an exception", hint: "%+v of the error prints the traceback; " + UsableAgain},
	ErrInterrupted:   {text: "the hook was interrupted", hint: "the context of the call ended while a callback ran; " + UsableAgain},
	ErrNotFuture:     {text: "the hook did not return a future", hint: "a hook returns a torch.futures.Future of the reduced flat tensor"},
	ErrNoneResult:    {text: "the hook did not return a future: it returned None", parents: []Code{ErrNotFuture}},
	ErrFutureFailed:  {text: "the hook's future failed", hint: "look at the hook's callbacks (%+v of the error prints the traceback); " + UsableAgain},
	"result_timeout": {text: "the hook's future was not done in time", parents: []Code{ErrFutureFailed}},
	ErrCollective: {text: "a collective of the hook failed unseen",
		hint: "let the hook see it: wait() for the work, or read fut.value() in each callback of its future"},

	ErrBadResult: {text: "the hook's result is not valid", hint: "the value must be the reduced flat tensor"},
	ErrNotTensor: {text: "the hook's result is not valid: not a tensor", parents: []Code{ErrBadResult}},
	"none_value": {text: "the hook's result is not valid: None", parents: []Code{ErrNotTensor}},
	"list_value": {text: "the hook's result is not valid: a list", parents: []Code{ErrNotTensor}},
	ErrShort:     {text: "the hook's result is not valid: too few elements", parents: []Code{ErrBadResult}},
	// These three are also of gradients and buckets that a hook, a Reducer or a collective is given.
	ErrSparse: {text: "sparse where dense is wanted, or dense where sparse is", parents: []Code{ErrBadResult},
		hint: "use a hook that reduces such gradients and gives them the bucket's layout, or make the gradient dense"},
	ErrDevice: {text: "on another device than is wanted", parents: []Code{ErrBadResult},
		hint: "give a tensor on the device that the text names: tensor.to(device) makes one"},
	ErrComplex: {text: "real numbers where complex ones are wanted, or complex where real", parents: []Code{ErrBadResult},
		hint: "torch.view_as_real makes real numbers of complex ones, and torch.view_as_complex the other way"},
	ErrMeta: {text: "the hook's result is not valid: on the meta device", parents: []Code{ErrBadResult},
		hint: "return a tensor with data, on the bucket's device"},
	ErrLayout: {text: "the hook's result is not valid: no plain memory", parents: []Code{ErrBadResult},
		hint: "return a plain tensor: .contiguous() or .clone() makes one"},
	ErrNonFinite: {text: "the hook's result is not valid: not finite", parents: []Code{ErrBadResult},
		hint: "look for a division by zero or an overflow, in fp16 perhaps, in the hook and before it"},

	ErrBucket: {text: "the bucket cannot be given to the hook",
		hint: "give the bucket a dtype and a device that this torch has (`pyhook doctor` lists them), and parts that fit each other"},
	ErrDeviceMemory: {text: "the device's memory could not be used",
		hint: "see the device's own error: give the Reducer a device and a stream that this torch has, tensors that are there, and enough memory (smaller buckets, no Rollback)"},
	ErrSparseGradient: {text: "the sparse gradient is not valid"},

	ErrLoad:         {text: "the hook cannot be loaded", hint: "the error's PythonError has the traceback"},
	ErrBadSpec:      {text: "the hook cannot be loaded: the spec cannot be read", parents: []Code{ErrLoad}},
	ErrNoModule:     {text: "the hook cannot be loaded: no such module or file", parents: []Code{ErrLoad}},
	"no_file":       {text: "the hook cannot be loaded: no such file", parents: []Code{ErrNoModule}},
	ErrNoAttribute:  {text: "the hook cannot be loaded: no such name in the module", parents: []Code{ErrLoad}},
	ErrNotCallable:  {text: "the hook cannot be loaded: not callable", parents: []Code{ErrLoad}},
	ErrArity:        {text: "the hook cannot be loaded: it does not take (state, bucket)", parents: []Code{ErrLoad}},
	ErrImportFailed: {text: "the hook cannot be loaded: its module fails to import", parents: []Code{ErrLoad}},
	ErrBadArguments: {text: "the hook cannot be loaded: the arguments of the hook or its state do not fit", parents: []Code{ErrLoad}},
	ErrOrder: {text: "the hook cannot be loaded: its pyhook_order is not known", parents: []Code{ErrLoad},
		hint: "set it to \"ordered\" where callbacks use nothing that a call for another bucket changes, else leave it out"},
	ErrNeverFuture: {text: "the hook cannot be loaded: calling it gives no future", parents: []Code{ErrLoad, ErrNotFuture}},
	"async":        {text: "the hook cannot be loaded: calling it gives a coroutine and no future", parents: []Code{ErrNeverFuture}},
	"generator":    {text: "the hook cannot be loaded: calling it gives a generator and no future", parents: []Code{ErrNeverFuture}},

	ErrGroup: {text: "the process group failed", hint: "run `pyhook doctor`, which tries what torch.distributed can do here"},
	ErrPeer: {text: "a peer failed", parents: []Code{ErrGroup},
		hint: "look at the other ranks' own errors, of which the earliest is the cause. This process group " +
			"is of no use any more: call ddp's Reducer.Recover on every rank, or end all and start them again (torchrun does)"},
	ErrJoinTimeout:        {text: "not all ranks came in time", parents: []Code{ErrGroup}},
	ErrRank:               {text: "a rank is out of range, or taken twice", parents: []Code{ErrGroup}},
	ErrWorldSize:          {text: "the ranks' world sizes differ", parents: []Code{ErrGroup}},
	ErrAddress:            {text: "the store's address is not one of this host", parents: []Code{ErrGroup}},
	ErrPortInUse:          {text: "the store's port is in use", parents: []Code{ErrGroup}},
	ErrNotAStore:          {text: "the service at MASTER_PORT is not a torch.distributed store", parents: []Code{ErrGroup}},
	ErrTorchVersion:       {text: "the ranks' torch differs", parents: []Code{ErrGroup}},
	"protocol":            {text: "the ranks' pyhook differs", parents: []Code{ErrGroup}},
	"rendezvous":          {text: "the ranks cannot meet", parents: []Code{ErrGroup}},
	"no_backend":          {text: "this torch has no such backend", parents: []Code{ErrGroup}},
	"already_initialized": {text: "there is a default process group already", parents: []Code{ErrGroup}},
	"not_initialized":     {text: "there is no default process group", parents: []Code{ErrGroup}},
	"transport":           {text: "the trainer's transport failed", parents: []Code{ErrGroup}},
	"init_failed":         {text: "the process group cannot be made", parents: []Code{ErrGroup}},

	ErrOutOfStep: {text: "this rank is out of step with the others"},
	ErrClosed:    {text: "used after Close", hint: "close it after the last future of its calls is done"},

	ErrState:            {text: "the hook's state cannot be saved or restored"},
	ErrStateUnsafe:      {text: "the hook's state cannot be saved or restored: not safe", parents: []Code{ErrState}},
	ErrStateCorrupt:     {text: "the hook's state cannot be saved or restored: damaged", parents: []Code{ErrState}},
	ErrStateVersion:     {text: "the hook's state cannot be saved or restored: another version", parents: []Code{ErrState}},
	ErrStateClass:       {text: "the hook's state cannot be saved or restored: another class", parents: []Code{ErrState}},
	"state_immutable":   {text: "the hook's state cannot be restored in place", parents: []Code{ErrStateClass}},
	ErrStateRank:        {text: "the hook's state cannot be saved or restored: another rank", parents: []Code{ErrState}},
	ErrStateBuckets:     {text: "the hook's state cannot be saved or restored: other buckets", parents: []Code{ErrState}},
	"state_unsupported": {text: "the hook's state cannot be saved or restored: not supported here", parents: []Code{ErrState}},
	"state_failed":      {text: "the hook's state cannot be saved or restored: its own methods raised", parents: []Code{ErrState}},

	// Package ddp's.
	"ready_twice":      {text: "marked ready twice in one step"},
	"not_ready":        {text: "not marked ready in this step"},
	"reducer_closed":   {text: "the reducer was closed", parents: []Code{ErrClosed}},
	"graph_changed":    {text: "the training graph has changed in this step, which StaticGraph does not allow"},
	"sparse_and_dense": {text: "sparse and dense gradients do not fit each other"},
	"late_write":       {text: "the hook wrote to its bucket after its future was done"},
	"mismatch":         {text: "the ranks' parameter lists or options differ"},
	"values":           {text: "the ranks' parameters have different values"},
	"other_step":       {text: "another Reducer over the process group has a step under way"},
	"parameter":        {text: "the parameter cannot be reduced"},
	"overlap":          {text: "gradients share memory, of which each needs its own"},
	"step_failed":      {text: "the step failed"},

	// Package worker's.
	"worker_start":      {text: "the worker did not start"},
	"worker_crashed":    {text: "the worker crashed"},
	"worker_exited":     {text: "the worker exited"},
	"worker_hung":       {text: "the worker hung"},
	"worker_cancelled":  {text: "the worker was stopped, as the context of a call ended"},
	"worker_frozen":     {text: "the worker is frozen"},
	"worker_memory":     {text: "the worker used too much memory"},
	"worker_protocol":   {text: "the worker sent what is not a message"},
	"worker_stopped":    {text: "the worker was stopped"},
	"worker_no_restart": {text: "the worker may not be restarted any more"},
	"worker_snapshot":   {text: "the hook's state cannot be restored"},
	"worker_not_armed":  {text: "worker.Main was not called: call it first in main (in tests: in TestMain), since a worker is this same program"},

	ErrCanceled: {text: context.Canceled.Error(), is: context.Canceled,
		hint: "what was started goes on; the future can be waited for again"},
	ErrDeadline: {text: context.DeadlineExceeded.Error(), is: context.DeadlineExceeded,
		hint: "did all ranks call the hook? What was started goes on; the future can be waited for again"},
}
