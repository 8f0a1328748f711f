"""Refuse the words of scripts/words.txt in names of Go, C and Python: `make lint` runs it.

usage: check_words.py [WORDS [FILE...]]     default: scripts/words.txt, all files of the clone

A name is cut into words: sameManner, same_manner and MANNER_EACH all have "manner". Comments and
strings are not looked at. The head of words.txt describes its lines.
"""

from __future__ import annotations

import io
import keyword
import pathlib
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIXES = (".go", ".c", ".h", ".cpp", ".py")

# What hides text in Go and C, the longest first: comments, strings, runes.
HIDDEN = re.compile(r"//[^\n]*|/\*.*?\*/|`[^`]*`|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'", re.S)
NAME = re.compile(r"[A-Za-z_]\w*")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Rule(NamedTuple):
    line: int
    word: str  # "_take_roll_": words in lower case between underscores
    besides: list[str]  # names that may have it
    better: str
    allowed: list[str]  # paths


def rules(path: pathlib.Path) -> list[Rule]:
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("=>")]
        if len(parts) != 3 or not parts[0] or not parts[1]:
            sys.exit(f"{path}:{number}: not 'words => what to say => paths': {line}")
        words = parts[0].split()
        besides = [f"_{word[1:]}_" for word in words if word.startswith("!")]
        for word in words:
            if not word.startswith("!"):
                found.append(Rule(number, f"_{word}_", besides, parts[1], parts[2].split()))
    return found


def cut(name: str) -> str:
    """_same_manner_ of sameManner."""
    return "_" + "_".join(word.lower() for word in WORD.findall(name)) + "_"


def names(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields each name of a file, with its line."""
    text = path.read_text()
    if path.suffix == ".py":
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (tokenize.TokenError, SyntaxError):  # of tests that refuse such a file
            return
        for token in tokens:
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                yield token.start[0], token.string
        return
    plain = HIDDEN.sub(lambda hidden: "\n" * hidden.group().count("\n") or " ", text)
    for number, line in enumerate(plain.splitlines(), 1):
        for name in NAME.findall(line):
            yield number, name


def bad(words: str, rule: Rule) -> bool:
    for besides in rule.besides:
        words = words.replace(besides, "_")
    return rule.word in words


def inside(file: str, paths: list[str]) -> bool:
    return any(file == path or file.startswith(path + "/") for path in paths)


def files() -> list[str]:
    """All files of the clone but docs/decisions, which keeps the words of its time."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", ":!docs/decisions"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = listed.stdout.splitlines()
    return [file for file in found if file.endswith(SUFFIXES) and (ROOT / file).is_file()]


def main(args: list[str]) -> int:
    list_file = pathlib.Path(args[0]) if args else ROOT / "scripts" / "words.txt"
    checked = rules(list_file)
    failed = False
    used = set()
    for file in args[1:] or files():
        seen: dict[str, list[Rule]] = {}
        for line, name in names(ROOT / file):
            if name not in seen:
                words = cut(name)
                seen[name] = [rule for rule in checked if bad(words, rule)]
            for rule in seen[name]:
                used.update((rule.line, path) for path in rule.allowed if inside(file, [path]))
                if not inside(file, rule.allowed):
                    print(
                        f"{file}:{line}: {name}: say {rule.better} ({list_file.name}:{rule.line})"
                    )
                    failed = True
    if not args[1:]:
        for number, path in sorted(
            {(rule.line, path) for rule in checked for path in rule.allowed} - used
        ):
            print(f"note: {list_file.name}:{number}: {path} is done: take it off the line")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
