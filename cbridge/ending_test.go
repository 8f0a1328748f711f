package cbridge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	children["an end"] = childEnd
	children["an end too late"] = childLateEnd
	children["an end of a busy main thread"] = childBusyEnd
}

// leftOpen writes to files of every kind and closes none; OUT is the folder.
const leftOpen = `import bz2, codecs, csv, gzip, io, logging, logging.handlers, lzma, os, shelve, zipfile
OUT = os.environ["OUT"]
def at(name): return os.path.join(OUT, name)
TEXT = open(at("text"), "w"); TEXT.write("a line\n")
BINARY = open(at("binary"), "wb"); BINARY.write(b"a line\n")
BOTH = open(at("both"), "w+b"); BOTH.write(b"a line\n")
WRAPPED = io.TextIOWrapper(open(at("wrapped"), "wb"), encoding="utf-16"); WRAPPED.write("a line\n")
CSV = csv.writer(open(at("csv"), "w", newline="")); CSV.writerow(["a", "line"])
GZIP = gzip.open(at("gzip"), "wt"); GZIP.write("a line\n")
BZ2 = bz2.open(at("bz2"), "wb"); BZ2.write(b"a line\n")
XZ = lzma.open(at("xz"), "wb"); XZ.write(b"a line\n")
ZIP = zipfile.ZipFile(at("zip"), "w"); ZIP.writestr("member", "a line\n")
SHELF = shelve.open(at("shelf"), writeback=True); SHELF["a"] = []; SHELF["a"].append("line")
CODECS = codecs.open(at("codecs"), "w", "utf-8"); CODECS.write("a line\n")
MEMORY = logging.handlers.MemoryHandler(1000, target=logging.FileHandler(at("log")))
logging.getLogger("left").addHandler(MEMORY); logging.getLogger("left").error("a line")
CLOSED = open(at("closed"), "w"); CLOSED.close()
READ = open(at("closed")); MEM = io.BytesIO(b"x")
class Mine(io.BufferedIOBase):
    def __init__(self): self.held, self.out = [], open(at("mine"), "wb")
    def writable(self): return True
    def write(self, data): self.held.append(bytes(data)); return len(data)
    def close(self):
        if not self.closed:
            self.out.write(b"".join(self.held)); self.out.close()
        super().close()
MINE = Mine(); MINE.write(b"a line\n")
`

// workLeft is work of threads and executors that nobody waits for.
const workLeft = `import atexit, concurrent.futures, os, threading, time
OUT = os.environ["OUT"]
def note(text):
    with open(os.path.join(OUT, "order"), "a") as f: f.write(text + "\n")
POOLED = threading.Event()
def later():
    POOLED.wait()
    time.sleep(0.3)
    note("thread")
threading.Thread(target=later).start()
POOL = concurrent.futures.ThreadPoolExecutor(1)
for _ in range(3): POOL.submit(time.sleep, 0.05)
POOL.submit(note, "pool").add_done_callback(lambda _: POOLED.set())
PROCESSES = concurrent.futures.ProcessPoolExecutor(1)
assert PROCESSES.submit(abs, -3).result() == 3
PROCESSES.submit(time.sleep, 0.2)
atexit.register(lambda: note("atexit 1 on " + threading.current_thread().name))
atexit.register(lambda: note("atexit 2 on " + threading.current_thread().name))
`

func childEnd(is *require.Assertions) {
	in := mustStart(is, Config{})
	for _, source := range []string{leftOpen, workLeft} {
		is.NoError(in.RunOnMain(context.Background(), func() {
			m, err := in.Module(fmt.Sprintf("left%d", len(source)), source)
			is.NoError(err)
			m.Close()
		}))
	}
	is.NoError(in.Close())
}

func TestInterpreter_Close(t *testing.T) {
	// What python itself leaves in the folder is what Close leaves.
	t.Run("it ends as python does", func(t *testing.T) {
		ours, theirs := t.TempDir(), t.TempDir()
		runChild(t, "an end", "OUT="+ours)
		cmd := exec.Command(python.Python.Executable, "-c", leftOpen+workLeft)
		cmd.Env = append(os.Environ(), "OUT="+theirs)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		names, err := os.ReadDir(theirs)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, len(names), 15)
		left, want := contents(t, ours), contents(t, theirs)
		for name, text := range want {
			if strings.HasPrefix(text, "EOFError") && left[name] == `b'a line\n'` {
				delete(want, name) // Close does better
				delete(left, name)
			}
		}
		assert.Equal(t, want, left)
		assert.Equal(t, "pool\nthread\natexit 2 on MainThread\natexit 1 on MainThread\n", left["order"])
	})
	t.Run("it does not wait for ever", func(t *testing.T) {
		folder := t.TempDir()
		assert.Equal(t, "atexit ran\n", runChild(t, "an end too late", "OUT="+folder))
		text, err := os.ReadFile(filepath.Join(folder, "text"))
		require.NoError(t, err)
		assert.Equal(t, "a line\n", string(text))
	})
	t.Run("Python's main thread is in a call", func(t *testing.T) {
		assert.Equal(t, "atexit ran\nclosed\n", runChild(t, "an end of a busy main thread"))
	})
}

// contents reads a folder with its compressed files, whose bytes hold times.
func contents(t *testing.T, folder string) map[string]string {
	t.Helper()
	const read = `import bz2, gzip, lzma, os, shelve, sys, zipfile
os.chdir(sys.argv[1])
ways = {"gzip": lambda n: gzip.open(n).read(), "bz2": lambda n: bz2.open(n).read(), "xz": lambda n: lzma.open(n).read(),
        "zip": lambda n: zipfile.ZipFile(n).read("member"), "shelf": lambda n: dict(shelve.open("shelf"))}
for name in sorted(os.listdir(".")):
    stem = name.partition(".")[0]
    try:
        left = ascii(ways.get(stem, lambda n: open(n, "rb").read())(name))
    except EOFError as error:  # CPython 3.13 does not end a gzip file that is left open
        left = repr(error)
    print(name, left, sep="=")
`
	out, err := exec.Command(python.Python.Executable, "-c", read, folder).CombinedOutput()
	require.NoError(t, err, "%s", out)
	all := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), "=")
		all[name] = text
	}
	order, err := os.ReadFile(filepath.Join(folder, "order"))
	require.NoError(t, err)
	all["order"] = string(order)
	return all
}

func childLateEnd(is *require.Assertions) {
	in := mustStart(is, Config{ExitWait: 500 * time.Millisecond})
	run(is, in, `import atexit, gc, os, sys, threading, time
def for_ever():
    while True: time.sleep(0.01)
threading.Thread(target=for_ever, name="uploader").start()
sys.modules["kept"] = open(os.path.join(os.environ["OUT"], "text"), "w")
gc.freeze()
sys.modules["kept"].write("a line\n")
atexit.register(print, "atexit ran")
`)
	start := time.Now()
	err := in.Close()
	is.Less(time.Since(start), 5*time.Second)
	is.ErrorIs(err, ErrExitTimeout)
	var e *ExitError
	is.True(errors.As(err, &e))
	is.Equal([]string{"thread uploader"}, e.Waiting)
	is.Contains(e.Stacks, "for_ever")
	is.ErrorContains(err, "waiting for Python's threads and executors was not done after 500ms; still there: thread uploader\nhint: ")
}

func childBusyEnd(is *require.Assertions) {
	in := mustStart(is, Config{ExitWait: 300 * time.Millisecond})
	run(is, in, "import atexit, sys, time\natexit.register(print, 'atexit ran')\n")
	go func() {
		_ = in.RunOnMain(context.Background(), func() { _, _ = in.Module("stuck", "import time\ntime.sleep(60)\n") })
	}()
	time.Sleep(200 * time.Millisecond)
	waiting := make(chan error)
	go func() { waiting <- in.RunOnMain(context.Background(), func() {}) }()
	err := in.Close()
	is.ErrorIs(err, ErrExitTimeout)
	is.ErrorContains(err, "since Python's main thread is in a call")
	is.ErrorIs(<-waiting, ErrClosed)
	fmt.Println("closed")
}
