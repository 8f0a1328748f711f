"""What python does at its end, short of taking the interpreter down, step by step.

torch does not survive Py_FinalizeEx in a process that goes on, and Go's exit is not
Python's. So the steps that others count on are done by name, in python's order:
finish_threads, run_exit_functions, flush_files.
"""

import _io
import gc
import os
import sys
import threading


class _Guest(threading._DummyThread):
    """A thread that Python did not start, as Go's: what it starts is no daemon.

    threading takes such threads for daemons, and a new thread is one if its maker is. A
    hook that is called on one would start daemons, whose work nobody waits for.
    """

    def __init__(self):
        super().__init__()
        self._daemonic = False


threading._DummyThread = _Guest


def finish_threads():
    """Run threading's exit functions, as executors have, and wait for non-daemon threads."""
    threading._shutdown()


def run_exit_functions():
    """Run what was registered with atexit, last one first."""
    import atexit

    atexit._run_exitfuncs()  # before 3.10 it raises what the last one raised


def flush_files():
    """Write out what open files hold back. Python does so as it destroys them.

    Outer ones first: a text file, the archive or compressed file that it writes to, the
    buffer under that. Text files and buffers stay open: threads may still write.
    """
    standard = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    failed = []
    for file, end in [(file, "flush") for file in standard] + _open_files(standard):
        try:
            if file is not None and not getattr(file, "closed", False):
                getattr(file, end)()
        except Exception as error:
            if not (file in standard and isinstance(error, (AttributeError, ValueError, OSError))):
                name = getattr(file, "name", None) or getattr(file, "filename", None)
                failed.append(f"{name or type(file).__name__}: {error}")
    if failed:
        raise OSError(f"not written in full: {'; '.join(failed)}")


_TEXT, _COMPRESSED, _ARCHIVE, _BUFFER = range(4)


def _open_files(standard):
    gc.unfreeze()  # what gc.freeze() has set aside is not in get_objects()
    kinds, found = {}, []
    buffers = [getattr(file, "buffer", None) for file in standard]
    for each in gc.get_objects():
        cls = type(each)
        kind = kinds.get(cls, cls)
        if kind is cls:
            kind = kinds[cls] = _kind(cls)
        if kind is not None and not any(each is other for other in standard + buffers):
            found.append((kind, len(found), each))
    found.sort(key=lambda entry: entry[:2])
    return [
        (file, "close" if kind in (_COMPRESSED, _ARCHIVE) else "flush")
        for kind, _, file in found
        if kind == _ARCHIVE or _writable(file)
    ]


def _kind(cls):
    """Which of the above the files of a class are; None: no files, or nothing to write out."""
    bases = cls.__mro__
    if _io.TextIOWrapper in bases:
        return _TEXT
    if any(c in bases for c in (_io.BufferedWriter, _io.BufferedRandom, _io.BufferedRWPair)):
        return _BUFFER
    if _io._BufferedIOBase in bases and _io.BytesIO not in bases:
        # Written in Python: gzip, bz2, lzma. IOBase's finaliser closes them, and only
        # that writes the end of what they compress.
        return _COMPRESSED
    for module, name in (("zipfile", "ZipFile"), ("shelve", "Shelf")):
        if getattr(sys.modules.get(module), name, None) in bases:
            return _ARCHIVE  # its finaliser closes it, too
    return None


def _writable(file):
    try:
        return file.writable()
    except Exception:  # closed, or never opened
        return False


def waiting():
    """What finish_threads and run_exit_functions may be waiting for, each by a few words."""
    here = threading.current_thread()
    texts = [
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if not (thread.daemon or isinstance(thread, _Guest))
        and thread not in (here, threading.main_thread())
    ]
    children = getattr(sys.modules.get("multiprocessing.process"), "_children", ())
    for child in list(children):
        pid = child.pid
        if not child.daemon and pid is not None and _alive(pid):
            texts.append(f"process {child.name} ({pid})")
    return texts


def _alive(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
