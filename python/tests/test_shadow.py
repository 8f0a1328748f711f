"""Files that are found in place of a library's modules."""

import subprocess
import sys

import pytest

from pyhook import HookError, _errors
from pyhook._loading import shadow

PYTHON = "from pyhook._runtime import bridge"


def run(folder, program=PYTHON):
    """The program's stderr, with the folder before all others on sys.path."""
    path = [str(folder), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {program}"],
        check=False, capture_output=True, text=True, cwd="/", timeout=120,
    )  # fmt: skip
    assert (done.returncode == 0) == (not done.stderr.strip()), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("torch.py", ""), ("torch.py", "raise ValueError(1)"), ("torch/__init__.py", "Tensor = 1"),
        ("numpy.py", ""), ("numpy.py", "from os import path as ndarray"),
    ],
)  # fmt: skip
def test_what_stands_in_for_a_library_is_named(tmp_path, file, text):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    said = run(tmp_path)
    name = file.partition("/")[0].partition(".")[0]
    assert "ShadowError: torch cannot be used: " in said
    assert f"{path} is found as {name}, in place of " in said
    assert "hint: rename the file" in said


def test_what_stands_in_for_a_module_of_pythons_is_named(tmp_path):
    # torch imports it in every version; here in a Python that has not done so yet.
    (tmp_path / "difflib.py").write_text("")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("from difflib import SequenceMatcher")
    said = run(tmp_path)
    assert f"{tmp_path / 'difflib.py'} is found as difflib, in place of " in said


def test_a_folder_without_an_init_gives_way(tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "torch").mkdir()
    (tmp_path / "this.py").write_text("")  # of no concern to torch, which works
    assert run(tmp_path) == ""


def test_an_import_that_fails_by_itself_is_as_before(tmp_path):
    assert shadow.behind(ImportError("other")) == []
    assert shadow.of("torch") is None
    assert shadow.of("json") is None
    error = _errors.ShadowError("shadowed", "x", "y")
    assert isinstance(error, ImportError)
    assert isinstance(error, HookError)
    assert str(error) == "x\nhint: y"
