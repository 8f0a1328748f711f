"""Run by a candidate interpreter: says, as JSON, what it is and where its library is."""

import sys

# -c puts the working directory first; the embedded interpreter does not.
if sys.path[:1] == [""]:
    del sys.path[0]

import importlib.util
import json
import sysconfig


def found(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


get = sysconfig.get_config_var
print(
    json.dumps(
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
