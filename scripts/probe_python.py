"""Say whether this interpreter can serve pyhook.

    python probe_python.py base   version and libpython only
    python probe_python.py quick  and: torch and numpy are installed (nothing is imported)
    python probe_python.py full   and: they import, and torch.distributed is there

Prints one line: "ok", the interpreter and a fingerprint, separated by tabs; or the reason why not.
Exit status 0 or 1. Kept to old syntax, so that an old Python says that it is old.
"""

import importlib.util
import os
import sys
import sysconfig

OLDEST = (3, 9)
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def find_libpython():
    """The path of the shared libpython, or None."""
    var = sysconfig.get_config_var
    names = [n for n in (var("INSTSONAME"), var("LDLIBRARY")) if n and ".so" in n]
    names.append(f"libpython{VERSION}.so.1.0")
    arch = var("MULTIARCH") or ""
    # LIBDIR may be a build machine's folder (uv, conda): base_prefix is the one that moves along.
    folders = [var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib"), "/usr/lib64", "/usr/lib"]
    for folder in folders:
        for name in names:
            for path in (os.path.join(folder, name), os.path.join(folder, arch, name)):
                if os.path.isfile(path):
                    return path
    return None


def stamp(path):
    return f"{path}@{os.stat(path).st_mtime_ns}"


def probe(mode):
    """Return (reason or None, fingerprint)."""
    if sys.version_info < OLDEST:
        return f"Python {VERSION} is too old (3.9 is the oldest served)", ""
    lib = find_libpython()
    if lib is None:
        fix = f"on Debian: the package libpython{VERSION}; else a Python built with --enable-shared"
        return f"no shared libpython ({fix})", ""
    marks = [sys.version.split()[0], stamp(lib)]
    if mode == "base":
        return None, " ".join(marks)
    for name in ("torch", "numpy"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            return f"{name} is not installed", ""
        marks.append(stamp(spec.origin))
    if mode == "full":
        try:
            import numpy  # noqa: F401
            import torch
            import torch.distributed

            if not torch.distributed.is_available():
                return f"torch {torch.__version__} was built without torch.distributed", ""
            torch.zeros(1).numpy()
        except Exception as e:  # an import can fail in any way
            first_line = str(e).split("\n", 1)[0]
            return f"torch does not work: {type(e).__name__}: {first_line}", ""
    return None, " ".join(marks)


def main():
    reason, fingerprint = probe(sys.argv[1] if len(sys.argv) > 1 else "full")
    print(reason or f"ok\t{sys.executable}\t{fingerprint}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
