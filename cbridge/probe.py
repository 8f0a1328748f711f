"""Run by a candidate interpreter: says, as JSON, what it is and where its library is."""

import os
import sys

# -c puts the working directory first; the embedded interpreter does not.
if sys.path[:1] == [""]:
    del sys.path[0]

# Every start waits for this program: importlib.util and json would double its time, and sysconfig
# and the end of the interpreter add half to it.


def build_variables():
    """What sysconfig.get_config_vars() says of the build, from the file that it reads."""
    try:
        if "_PYTHON_SYSCONFIGDATA_NAME" in os.environ:
            raise ImportError("sysconfig reads another file")
        multiarch = getattr(sys.implementation, "_multiarch", "")
        return __import__(
            f"_sysconfigdata_{sys.abiflags}_{sys.platform}_{multiarch}"
        ).build_time_vars
    except (ImportError, AttributeError):
        import sysconfig

        return sysconfig.get_config_vars()


def found(name):
    try:
        return any(finder.find_spec(name, None) for finder in sys.meta_path)
    except (ImportError, ValueError, AttributeError):
        return False


def dumps(value):
    if isinstance(value, dict):
        return "{" + ",".join(dumps(k) + ":" + dumps(v) for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    units = (value or "").encode("utf-16-be", "surrogatepass")
    text = "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    return f'"{text}"'


get = build_variables().get
print(
    dumps(
        {
            "executable": sys.executable,
            "version": ".".join(map(str, sys.version_info[:3])),
            "implementation": sys.implementation.name,
            "prefix": sys.prefix,
            "base_prefix": sys.base_prefix,
            "libdir": get("LIBDIR") or "",
            "multiarch": get("MULTIARCH") or "",
            "ldlibrary": get("LDLIBRARY") or "",
            "instsoname": get("INSTSONAME") or "",
            "free_threaded": bool(get("Py_GIL_DISABLED")),
            "missing": [name for name in sys.argv[1:] if not found(name)],
        }
    )
)
sys.stdout.flush()
os._exit(0)
