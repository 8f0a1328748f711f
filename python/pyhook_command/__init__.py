"""The Go command ``pyhook`` in a wheel, and how it is started.

``pip install`` of a wheel for this platform makes a script ``pyhook`` that calls ``main``. The
command then uses the interpreter that it was installed for, in whatever kind of environment, unless
PYHOOK_PYTHON names another. scripts/release.sh adds this package, with the command in it, to the
wheels of the platforms; the one for any platform is without both.

It is not in the package ``pyhook``, so that ``pyhook --help`` does not wait for what that imports.
"""

import os
import sys

COMMAND = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pyhook")


def main() -> None:
    """Become the command: the process stays the same one, and so do its signals and exit status."""
    environ = dict(os.environ)
    if sys.executable and not environ.get("PYHOOK_PYTHON"):
        environ["PYHOOK_PYTHON"] = sys.executable
    try:
        os.execve(COMMAND, [COMMAND, *sys.argv[1:]], environ)
    except OSError as e:
        sys.exit(
            f"pyhook: the command cannot be started: {e}\n"
            "hint: this wheel is for another system, or is not whole; install it again: "
            "pip install --force-reinstall pyhook-*.whl"
        )
