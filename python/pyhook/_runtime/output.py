"""Gives Python's output, line by line, to the Go program that embeds it.

``sys.stdout`` and ``sys.stderr`` become streams whose lines a Go function gets, and the root
logger gets a handler. What C code writes to the file descriptors 1 and 2 stays there.
"""

from __future__ import annotations

import atexit
import io
import logging
import sys
import threading
from typing import Any, Callable

LIMIT = 64 * 1024
"""A line without an end is cut after so many characters."""


class LineStream(io.TextIOBase):
    """A text stream that passes its lines, without their ends, to a function.

    Any thread may write. Each has a line of its own, so that lines of several threads do not mix.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, emit: Callable[[str, str], Any], behind: Any) -> None:
        super().__init__()
        self.name = f"<{name}>"
        self._stream = name
        self._emit = emit
        self._behind = behind  # the real stream, for fileno()
        self._lock = threading.Lock()
        self._rests: dict[int, str] = {}  # what each thread has begun

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the real stream's descriptor, for child processes."""
        return int(self._behind.fileno())

    def write(self, text: str) -> int:
        """Pass on every line that the text ends."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        thread = threading.get_ident()
        with self._lock:
            *lines, rest = (self._rests.pop(thread, "") + text).split("\n")
            if len(rest) > LIMIT:
                lines.append(rest)
            elif rest:
                self._rests[thread] = rest
        for line in lines:
            self._emit(self._stream, _text(line))
        return len(text)

    def finish(self) -> None:
        """Pass on the lines that the threads have begun."""
        with self._lock:
            rests, self._rests = self._rests, {}
        for rest in rests.values():
            self._emit(self._stream, _text(rest))


class LogHandler(logging.Handler):
    """Passes log records to a function: level, logger, and message with its traceback."""

    def __init__(self, emit: Callable[[int, str, str], Any]) -> None:
        super().__init__()
        self._give = emit
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on a record."""
        try:
            self._give(record.levelno, _text(record.name), _text(self.format(record)))
        except Exception:
            self.handleError(record)


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def redirect(line: Callable[[str, str], Any], record: Callable[[int, str, str], Any]) -> None:
    """Pass the output of this interpreter to ``line``, and the root logger's records to ``record``.

    At exit lines without an end follow. A root logger that has handlers keeps those alone. Its
    level stays as it is (WARNING, if nobody set it).
    """
    out = LineStream("stdout", line, sys.__stdout__)
    err = LineStream("stderr", line, sys.__stderr__)
    sys.stdout, sys.stderr = out, err
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(LogHandler(record))
    atexit.register(out.finish)
    atexit.register(err.finish)
