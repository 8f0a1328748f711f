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

// bytecode keeps what this interpreter made of the sources that Go programs carry, from one start
// to the next: Python keeps the bytecode only of modules that are files. One file holds it for one
// build of Python; each source in it is known by its digest.
//
// Unmarshalling runs no code, but running the result does. So a file is used only if it and its
// folder belong to this user and nobody else can write to them, and if its digest is right.
// Whatever else is there is left alone, and the sources are compiled.
type bytecode struct {
	key   []byte // of the file's form and all that makes bytecode another: Python's build, -O
	name  string // the file's
	write bool   // Python may write bytecode

	mutex   sync.Mutex // not held while Python runs
	sources map[string]string
	kept    map[string]compiled // by the names that sources has
	fresh   bool                // kept has what the file has not
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

// own is Module for a source of this package's, whose bytecode is kept.
func (in *Interpreter) own(name, source string) (*Object, error) {
	return in.newModule(name, func(module *Object) error {
		code, err := in.compile("<"+name+">", source)
		if err != nil {
			return err
		}
		defer code.Close()
		builtins, err := in.Import("builtins")
		if err != nil {
			return err
		}
		defer builtins.Close()
		return module.With("__dict__", func(globals *Object) error {
			_, err := builtins.CallValue("exec", code, globals)
			return err
		})
	})
}

// compile makes the code object of a source, or takes the one that is kept.
func (in *Interpreter) compile(filename, source string) (*Object, error) {
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
	builtins, err := in.Import("builtins")
	if err != nil {
		return nil, err
	}
	defer builtins.Close()
	code, err := builtins.Call("compile", source, filename, "exec", 0, true)
	if err != nil {
		return nil, err
	}
	if data, err := marshal.CallValue("dumps", code); err == nil {
		in.bytecode.keep(filename, data.([]byte))
	}
	return code, nil
}

// bytecodePath fails for a program that runs with the rights of another than who called it: the
// caller's environment says where the folder is.
func bytecodePath() (string, error) {
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		return "", fs.ErrPermission
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, bytecodeFolder), err
}

// code is what is kept of a source; nil: nothing.
func (b *bytecode) code(name, source string) []byte {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.sources[name] = source
	if c, ok := b.kept[name]; ok && c.source == sha256.Sum256([]byte(source)) {
		return c.code
	}
	return nil
}

// keep notes what a source that code was asked of was compiled to.
func (b *bytecode) keep(name string, code []byte) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if source, ok := b.sources[name]; ok {
		b.kept[name] = compiled{sha256.Sum256([]byte(source)), code}
		b.fresh = true
	}
}

// private opens a folder of this user's that nobody else can write to.
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

// read takes over what a good file holds.
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

// digest is that of a file's body, for this Python alone.
func (b *bytecode) digest(body []byte) []byte {
	h := sha256.New()
	h.Write(b.key)
	h.Write(body)
	return h.Sum(nil)
}

// SaveBytecode keeps what the sources of this package and of InstallPackage were compiled to, in
// the user's cache folder, for the next start in another process. It does nothing where there is
// no such folder that only this user can write to, where Python may not write bytecode
// (PYTHONDONTWRITEBYTECODE), and where all is kept already.
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

// save writes the file, if there is something new and somewhere to put it.
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

// makePrivate makes a folder, but only inside one of this user's: root with another user's HOME
// would leave there what that user cannot use.
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

// field cuts one off, of a body whose digest is right.
func field(body []byte) (field, rest []byte) {
	n := 4 + binary.LittleEndian.Uint32(body)
	return body[4:n], body[n:]
}
