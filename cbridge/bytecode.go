package cbridge

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// bytecodeFolder is where compiled sources are kept, in os.UserCacheDir.
const bytecodeFolder = "pyhook/bytecode"

// bytecodeLimit bounds what is read: what pyhook writes is well below 1 MB.
const bytecodeLimit = 16 << 20

// bytecode keeps the compiled sources that Go programs embed from one start to the next; Python
// itself keeps only those of modules that are files. There is one file for each build of Python,
// and it names each source by its digest.
//
// Unmarshalling runs no code, but executing the result does. So a file is read only if its digest
// is right, and if it and its folder belong to this user and no other user can write to them. Else
// the sources are compiled.
type bytecode struct {
	key   []byte // digest of the file's format and of what bytecode depends on: Python's build, -O
	name  string // the file's
	write bool   // Python may write bytecode

	mutex   sync.Mutex // not held while Python runs
	sources map[string]string
	kept    map[string]compiled // by the names that sources has
	fresh   bool                // kept has entries that the file lacks
}

// compiled is the marshalled code object of one source.
type compiled struct {
	source [sha256.Size]byte
	code   []byte
}

// load asks the interpreter what it is and reads its file.
func (b *bytecode) load(in *Interpreter) error {
	builtins, err := in.Import("builtins")
	if err != nil {
		return err
	}
	defer builtins.Close()
	v, err := builtins.CallValue("eval", "(s := __import__('sys')) and (s.implementation.cache_tag or '', s.version, "+
		"__import__('_frozen_importlib_external').MAGIC_NUMBER, s.flags.optimize, s.dont_write_bytecode)", map[string]any{})
	if err != nil {
		return err
	}
	facts, ok := v.([]any)
	if !ok || len(facts) != 5 {
		return fmt.Errorf("asking Python how it compiles: got %v", v)
	}
	key := sha256.Sum256(fmt.Appendf(nil, "1 %q", facts[:4]))
	b.key, b.name, b.write = key[:], fmt.Sprintf("%v-%x", facts[0], key[:8]), facts[4] == false
	b.sources, b.kept = map[string]string{}, map[string]compiled{}
	if folder, err := bytecodePath(); err == nil {
		b.read(folder)
	}
	return nil
}

// Module runs source as a new module of that name and registers it in sys.modules. SaveBytecode
// keeps what it is compiled to. The caller owns the result.
func (in *Interpreter) Module(name, source string) (*Object, error) {
	builtins, err := in.Import("builtins")
	if err != nil {
		return nil, err
	}
	defer builtins.Close()
	code, err := in.compile(builtins, "<"+name+">", source)
	if err != nil {
		return nil, err
	}
	defer code.Close()
	return in.newModule(name, func(module *Object) error {
		return module.With("__dict__", func(globals *Object) error {
			_, err := builtins.CallValue("exec", code, globals)
			return err
		})
	})
}

// compile returns the code object of a source: the one that is kept, or a new one.
func (in *Interpreter) compile(builtins *Object, filename, source string) (*Object, error) {
	marshal, err := in.Import("marshal")
	if err != nil {
		return nil, err
	}
	defer marshal.Close()
	if kept := in.bytecode.code(filename, source); kept != nil {
		if code, err := marshal.Call("loads", kept); err == nil {
			return code, nil
		}
	}
	code, err := builtins.Call("compile", source, filename, "exec", 0, true)
	if err != nil {
		return nil, err
	}
	if data, err := marshal.CallValue("dumps", code); err == nil {
		in.bytecode.keep(filename, data.([]byte))
	}
	return code, nil
}

// bytecodePath fails in a set-user-ID or set-group-ID program: its caller's environment names the
// folder.
func bytecodePath() (string, error) {
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		return "", fs.ErrPermission
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, bytecodeFolder), err
}

// code returns the kept code of a source, or nil.
func (b *bytecode) code(name, source string) []byte {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.sources[name] = source
	if c, ok := b.kept[name]; ok && c.source == sha256.Sum256([]byte(source)) {
		return c.code
	}
	return nil
}

// keep stores what a source was compiled to, after code was asked for it.
func (b *bytecode) keep(name string, code []byte) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if source, ok := b.sources[name]; ok {
		b.kept[name] = compiled{sha256.Sum256([]byte(source)), code}
		b.fresh = true
	}
}

// private opens a folder that belongs to this user and that no other user can write to.
func private(folder string) (*os.Root, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && !ours(info) {
		err = fs.ErrPermission
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

func ours(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid() && info.Mode().Perm()&0o022 == 0
}

// read loads the file, if it may be trusted.
func (b *bytecode) read(folder string) {
	root, err := private(folder)
	if err != nil {
		return
	}
	defer root.Close()
	file, err := root.OpenFile(b.name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || !ours(info) {
		return
	}
	data, err := io.ReadAll(io.LimitReader(file, bytecodeLimit))
	if err != nil || len(data) < sha256.Size {
		return
	}
	digest, body := data[:sha256.Size], data[sha256.Size:]
	if !bytes.Equal(digest, b.digest(body)) {
		return
	}
	for len(body) > 0 {
		var name, code []byte
		var c compiled
		name, body = field(body)
		body = body[copy(c.source[:], body):]
		code, body = field(body)
		c.code = code
		b.kept[string(name)] = c
	}
}

// digest returns the digest of a file's body, which includes the key.
func (b *bytecode) digest(body []byte) []byte {
	h := sha256.New()
	h.Write(b.key)
	h.Write(body)
	return h.Sum(nil)
}

// SaveBytecode writes what the sources of Module and InstallPackage were compiled to into the
// user's cache folder, for the next process. It does nothing if no such folder is private to this
// user, if Python may not write bytecode (PYTHONDONTWRITEBYTECODE), or if nothing is new.
func (in *Interpreter) SaveBytecode() error {
	v, err := in.bootstrap.CallValue("take_compiled")
	if err != nil {
		return err
	}
	made, _ := v.(map[any]any)
	for name, code := range made {
		name, _ := name.(string)
		if code, ok := code.([]byte); ok {
			in.bytecode.keep(name, code)
		}
	}
	_ = in.bytecode.save() // the next start compiles again
	return nil
}

// save writes the file, if there is something new.
func (b *bytecode) save() error {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if !b.fresh || !b.write {
		return nil
	}
	folder, err := bytecodePath()
	if err != nil {
		return err
	}
	if err := makePrivate(folder); err != nil {
		return err
	}
	root, err := private(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	var body []byte
	for _, name := range slices.Sorted(maps.Keys(b.kept)) {
		c := b.kept[name]
		body = appendField(append(appendField(body, []byte(name)), c.source[:]...), c.code)
	}
	// Another process may be reading the file, or writing it too: the last one's stays.
	temporary := b.name + "." + rand.Text()
	file, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(b.digest(body), body...))
	if err = firstOf(err, file.Close()); err == nil {
		err = root.Rename(temporary, b.name)
	}
	if err != nil {
		_ = root.Remove(temporary)
		return err
	}
	b.fresh = false
	return nil
}

// makePrivate makes a folder, but only inside one of this user's: root, with another user's HOME,
// would leave a folder that the user cannot use.
func makePrivate(folder string) error {
	above := folder
	for {
		info, err := os.Stat(above)
		if err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
				return fs.ErrPermission
			}
			return os.MkdirAll(folder, 0o700)
		}
		if !os.IsNotExist(err) || above == filepath.Dir(above) {
			return err
		}
		above = filepath.Dir(above)
	}
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func appendField(to, field []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(to, uint32(len(field))), field...)
}

// field cuts the first field off a body whose digest is right.
func field(body []byte) (field, rest []byte) {
	n := 4 + binary.LittleEndian.Uint32(body)
	return body[4:n], body[n:]
}
