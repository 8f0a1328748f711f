"""Reads the text that names a hook or a state: ``"my.hooks:make(rank=2, inner=powersgd)"``.

A spec is ``package.module:name``, ``path/to/file.py:name`` or a short name, and may have arguments
in brackets. An argument is a Python literal (``2``, ``"fp16"``, ``[0.9, 0.99]``), a spec, or a
list or tuple of both, with or without a keyword. Nothing is imported here.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .._errors import HookLoadError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_KEYWORD = re.compile(r"([^\W\d]\w*)\s*=(?!=)\s*(.*)", re.DOTALL)
_OPENING = {")": "(", "]": "[", "}": "{"}


class Spec(NamedTuple):
    """A spec as read. ``arguments`` and ``keywords`` hold literals and Specs."""

    text: str
    target: str  # what is named: the text without the brackets
    called: bool  # there are brackets
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}  # noqa: RUF012  (never written to)


def parse(text: str) -> Spec:
    """Read a spec.

    Raises:
        HookLoadError: ``bad_spec``.
    """
    text = text.strip()
    if not text.endswith(")"):
        return Spec(text, text, False)
    start = _call_start(text)
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    for part in _split(text[start + 1 : -1], text):
        named = _KEYWORD.fullmatch(part)
        if named is None:
            if keywords:
                raise HookLoadError(
                    "bad_spec", f"{text!r} has the argument {part!r} after one with a keyword"
                )
            arguments.append(_value(part, text))
            continue
        name, value = named.groups()
        if name in keywords:
            raise HookLoadError("bad_spec", f"{text!r} gives {name} twice")
        keywords[name] = _value(value, text)
    return Spec(text, text[:start].strip(), True, tuple(arguments), keywords)


def split_target(target: str, short_names: dict[str, str]) -> tuple[str, str]:
    """Split ``"my.hooks:Class.method"``, or a short name, at the colon.

    Raises:
        HookLoadError: ``bad_spec``, with a hint of what was meant.
    """
    where, colon, name = short_names.get(target, target).rpartition(":")
    if not colon or not where or not _NAME.fullmatch(name):
        raise HookLoadError("bad_spec", f"cannot read {target!r}", _hint(target, short_names))
    return where, name


def _hint(spec: str, short_names: Iterable[str]) -> str:
    near = difflib.get_close_matches(spec.lower(), list(short_names), n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if spec.endswith(".py"):
        return f"say which function of the file: {spec}:my_hook"
    module, dot, name = spec.rpartition(".")
    if dot and re.fullmatch(r"[\w.]+", spec):
        return f"put a colon before the function's name: {module}:{name}"
    return (
        "write package.module:name, path/file.py:name, or one of "
        f"{', '.join(short_names)}; a text in brackets needs quotes"
    )


def _value(text: str, spec: str) -> Any:
    """Return a literal, a list or tuple of values, or a Spec."""
    if not text:
        raise HookLoadError("bad_spec", f"{spec!r} has an empty argument")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass  # not a literal: it names something
    if text[0] == "[" and text[-1] == "]":
        return [_value(part, spec) for part in _split(text[1:-1], spec)]
    if text[0] == "(" and text[-1] == ")":
        return tuple(_value(part, spec) for part in _split(text[1:-1], spec))
    if text[0] in "\"'{":
        raise HookLoadError("bad_spec", f"cannot read {text!r} in {spec!r}: not a Python literal")
    return parse(text)


def _call_start(text: str) -> int:
    """Return the index of the bracket that the last character closes."""
    i = 0
    while i < len(text):
        if text[i] == "(":
            end = _closing(text, i)
            if end == len(text) - 1 and i > 0:
                return i
            if end < 0:
                break
            i = end  # the brackets of a folder's name
        i += 1
    raise HookLoadError("bad_spec", f"the brackets of {text!r} do not match")


def _closing(text: str, start: int) -> int:
    """Return the index where the bracket at ``start`` closes, or -1."""
    open_brackets: list[str] = []
    i = start
    while i < len(text):
        character = text[i]
        if character in "([{":
            open_brackets.append(character)
        elif character in ")]}":
            if open_brackets.pop() != _OPENING[character]:
                return -1
            if not open_brackets:
                return i
        elif character in "\"'" and _starts_text(text, i):
            i = _text_end(text, i)
        i += 1
    return -1


def _starts_text(text: str, i: int) -> bool:
    """Return whether the quote at ``i`` begins a string; an apostrophe does not."""
    before = text[:i].rstrip()
    prefixed = re.search(r"[(\[{,=:\s][rbuRBU]+$", text[:i])  # r"...", b"..."
    return before == "" or before[-1] in "([{,=:" or prefixed is not None


def _text_end(text: str, start: int) -> int:
    """Return the index of the last character of the string that begins at ``start``."""
    i = start + 1
    while i < len(text) and text[i] != text[start]:
        i += 2 if text[i] == "\\" else 1
    return i


def _split(inner: str, spec: str) -> list[str]:
    """Split at the outermost commas, and strip the parts. The last comma may be at the end."""
    parts: list[str] = []
    begin = i = 0
    while i < len(inner):
        character = inner[i]
        if character in "([{":
            end = _closing(inner, i)
            if end < 0:
                raise HookLoadError("bad_spec", f"the brackets of {spec!r} do not match")
            i = end
        elif character in ")]}":
            raise HookLoadError("bad_spec", f"the brackets of {spec!r} do not match")
        elif character in "\"'" and _starts_text(inner, i):
            i = _text_end(inner, i)
        elif character == ",":
            parts.append(inner[begin:i].strip())
            begin = i + 1
        i += 1
    last = inner[begin:].strip()
    return [*parts, last] if last else parts
