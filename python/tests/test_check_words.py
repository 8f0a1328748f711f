"""scripts/check_words.py, which `make lint` runs over all names."""

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "check_words.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the clone")

RULES = """
# a comment
manner manners => metadata =>
place !in_place => locator =>
take_roll => allReduceActiveRanks => done.go
"""


def check(folder, name, text, rules=RULES):
    (folder / "words.txt").write_text(rules)
    (folder / name).write_text(text)
    args = [sys.executable, str(SCRIPT), str(folder / "words.txt"), str(folder / name)]
    done = subprocess.run(args, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.go", "func sameManner() {}\n", "a.go:1: sameManner: say metadata (words.txt:3)"),
        ("a.go", "/* two\nlines */\nvar manners int", "a.go:3: manners: say metadata"),
        ("a.c", "#define MANNER_EACH 64", "MANNER_EACH: say metadata"),
        ("a.h", "int same_manner(void);", "same_manner: say metadata"),
        ("a.py", "def f():\n    place = 1\n", "a.py:2: place: say locator"),
        ("a.go", "func TestTakeRoll() {}", "TestTakeRoll: say allReduceActiveRanks"),
        ("a.go", "x := `a`; y := 'b'; place(\"c\")", "a.go:1: place: say locator"),
    ],
)
def test_a_refused_word_in_a_name(tmp_path, name, text, said):
    code, out = check(tmp_path, name, text)
    assert code == 1
    assert said in out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.go", '// the place and its manner\nvar s = "place" + `manner`\n'),
        ("a.c", '/* manner\n */ char *s = "a \\" place"; char c = \'"\'; // place'),
        ("a.py", '"""manner"""\ns = "place"  # place\n'),
        ("a.go", "func Replace(inPlace, placement int) { takeTheRoll() }"),
        ("a.py", "def broken(:  # a test's data\n"),
    ],
)
def test_comments_strings_and_other_words_are_left_alone(tmp_path, name, text):
    assert check(tmp_path, name, text) == (0, "")


def test_a_path_that_is_not_done_may_have_the_word(tmp_path):
    rules = RULES.replace("done.go", str(tmp_path / "a.go"))
    assert check(tmp_path, "a.go", "func takeRoll() {}", rules) == (0, "")


def test_a_line_that_is_no_rule_is_refused(tmp_path):
    code, out = check(tmp_path, "a.go", "", "manner -> metadata\n")
    assert code == 1
    assert "words.txt:1: not 'words => what to say => paths'" in out
