"""A hook's file is one module, under the name that `import` has for it."""

import concurrent.futures
import importlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap

import pytest

import pyhook
from pyhook import HookLoadError, build_state, hook_name, load_hook

HOOKS = "class C: pass\nclass State: pass\ndef hook(state, bucket): return None\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes files into a folder that is the working directory, and forgets their modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(code, spec):
    with pytest.raises(HookLoadError) as caught:
        load_hook(spec)
    assert caught.value.code == code
    return str(caught.value)


def test_what_another_file_imports_is_the_very_same(write):
    write("hooks_a.py", HOOKS)
    write("factory_a.py", "from hooks_a import C\ndef make(): return C()\n")
    hook = load_hook("hooks_a.py:hook")
    assert hook.__module__ == "hooks_a"
    assert type(build_state("factory_a.py:make")) is hook.__globals__["C"]
    assert importlib.import_module("hooks_a").hook is hook
    assert load_hook("hooks_a:hook") is hook


def test_so_it_is_when_the_module_was_imported_first(write, monkeypatch):
    path = write("hooks_b.py", HOOKS)
    monkeypatch.syspath_prepend(str(path.parent))
    module = importlib.import_module("hooks_b")
    assert load_hook("hooks_b.py:hook") is module.hook
    assert load_hook(f"{path}:hook") is module.hook


def test_a_file_of_a_package_is_that_packages_module_if_it_can_be(write, monkeypatch):
    path = write("pkg_c/hooks_c.py", "from . import other\n" + HOOKS)
    write("pkg_c/other.py", "")
    write("pkg_c/__init__.py", "")
    write("pkg_c/factory_c.py", "from hooks_c import C\ndef make(): return C()\n")
    write("pkg_c/relative_c.py", "from .hooks_c import C\ndef make(): return C()\n")
    monkeypatch.syspath_prepend(str(path.parent.parent))
    hook = load_hook("pkg_c/hooks_c.py:hook")
    assert hook.__module__ == "pkg_c.hooks_c"
    kind = hook.__globals__["C"]
    assert type(build_state("pkg_c/factory_c.py:make")) is kind  # as hooks_c
    assert type(build_state("pkg_c/relative_c.py:make")) is kind  # as pkg_c.hooks_c
    module = importlib.import_module("hooks_c")
    assert module is importlib.import_module("pkg_c.hooks_c")
    assert module.__spec__.name == module.__name__ == "pkg_c.hooks_c"
    assert importlib.reload(module) is module
    assert module.C is not kind


def test_a_package_that_fails_to_import_is_done_without(write, monkeypatch):
    path = write("pkg_d/hooks_d.py", HOOKS)
    write("pkg_d/__init__.py", "raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(path.parent.parent))
    assert load_hook("pkg_d/hooks_d.py:hook").__module__ == "hooks_d"


def test_a_package_of_the_same_name_elsewhere_is_not_imported(write, monkeypatch):
    write("installed/tools_e/__init__.py", "raise SystemExit('the wrong one')\n")
    write("mine/tools_e/__init__.py", "")
    write("mine/tools_e/hooks_e.py", HOOKS)
    monkeypatch.syspath_prepend(os.path.abspath("mine"))
    monkeypatch.syspath_prepend(os.path.abspath("installed"))
    assert load_hook("mine/tools_e/hooks_e.py:hook").__module__ == "hooks_e"


def test_files_of_one_name_are_two_modules(write, monkeypatch):
    for folder in ("one", "two", "three"):
        write(f"{folder}/hooks_f.py", HOOKS)
    first = load_hook("one/hooks_f.py:hook")
    second = load_hook("two/hooks_f.py:hook")
    assert first is not second
    assert first.__module__ == "hooks_f"
    assert (hook_name(first), hook_name(second)) == (
        "one/hooks_f.py:hook",
        "two/hooks_f.py:hook",
    )
    assert load_hook("two/hooks_f.py:hook") is second
    assert pickle.loads(pickle.dumps(second)) is second
    monkeypatch.syspath_prepend(os.curdir)  # as python -m has it: now it has a name
    assert load_hook("three/hooks_f.py:hook").__module__ == "three.hooks_f"


@pytest.mark.parametrize("name", ["json.py", "a.b.py", "with space.py", "da-sh.py"])
def test_names_that_are_taken_or_odd(write, name):
    write(name, HOOKS)
    hook = load_hook(f"./{name}:hook")
    assert hook_name(hook) == f"./{name}:hook"
    assert pickle.loads(pickle.dumps(hook)) is hook
    import json

    assert json.loads("1") == 1


def test_threads_load_one_module(write):
    write("slow_l.py", "import time; time.sleep(0.1)\n" + HOOKS)
    write("json.py", "import time; time.sleep(0.1)\n" + HOOKS)
    for spec in ("slow_l.py:hook", "json.py:hook"):
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(load_hook, [spec] * 8))) == 1


def test_a_link_and_its_file_are_one_module(write):
    write("store/0123.py", HOOKS)
    os.symlink(os.path.join("store", "0123.py"), "hooks_g.py")
    hook = load_hook("hooks_g.py:hook")
    assert hook.__module__ == "hooks_g"
    assert load_hook("store/0123.py:hook") is hook


def test_a_spawned_process_finds_the_files_functions(write):
    write(
        "spawns.py",
        """
        import multiprocessing, os
        class Answer: pass
        def work(pipe): pipe.send((os.getpid(), Answer()))
        def hook(state, bucket):
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe(duplex=False)
            child = context.Process(target=work, args=(there,))
            child.start()
            there.close()
            answer = here.recv()
            child.join()
            return answer
        """,
    )
    hook = load_hook("spawns.py:hook")
    pid, answer = hook(None, None)
    assert pid != os.getpid()
    assert type(answer) is hook.__globals__["Answer"]
    assert multiprocessing.active_children() == []


def test_errors_show_the_spec_as_it_was_given(write):
    write(
        "hooks_h.py", "def make(rank): return None\nclass State:\n  def __init__(self, k): pass\n"
    )
    assert "hooks_h.py:make cannot be called" in refused("arity", "hooks_h.py:make")
    with pytest.raises(HookLoadError, match=r"hooks_h\.py:State: .*'k'"):
        build_state("hooks_h.py:State")
    with pytest.raises(HookLoadError, match="unexpected keyword argument 'j'"):
        build_state("hooks_h.py:State", {"k": 1, "j": 2})
    assert "pyhook_file" not in refused("no_attribute", "hooks_h.py:hook")


@pytest.mark.parametrize(
    ("files", "spec", "hint"),
    [
        (["rel_i/hooks_i.py"], "rel_i/hooks_i.py:hook", "rel_i.hooks_i:hook"),
        (["deep_j/rel_j/__init__.py", "deep_j/rel_j/hooks_j.py"], "deep_j/rel_j/hooks_j.py:hook",
         "rel_j.hooks_j:hook"),
    ],
)  # fmt: skip
def test_a_relative_import_says_how_to_name_the_hook(write, files, spec, hint):
    for file in files:
        path = write(file, "" if "__init__" in file else "from .other import x\n")
    text = refused("import_failed", spec)
    root = os.path.dirname(os.path.dirname(path))
    assert f"set PYTHONPATH={root} and write {hint}" in text
    write(os.path.join(os.path.dirname(files[-1]), "other.py"), "x = 1\n")
    write(files[-1], "from .other import x\n" + HOOKS)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), os.path.dirname(pyhook.__path__[0])]),
    }
    code = f"import pyhook; pyhook.load_hook({hint!r})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_part_of_torch_that_is_missing_is_not_to_be_installed(write):
    pytest.importorskip("torch")
    write("hooks_k.py", "import torch.distributed.no_such_part\n")
    text = refused("import_failed", "hooks_k.py:hook")
    assert "install torch" not in text.replace("that is installed", "")
    assert "has no torch.distributed.no_such_part" in text


SAVES = """
import sys
import torch
import pyhook
from pyhook._state.file import load_state, save_state
spec, file = sys.argv[2:]
state = pyhook.build_state(spec)
if sys.argv[1] == "save":
    state.values, state.inner.count = torch.arange(3.0), 7
    open(file, "wb").write(save_state(state))
else:
    load_state(open(file, "rb").read(), into=state)
    assert state.values.tolist() == [0, 1, 2] and state.inner.count == 7
    assert state.scale.__qualname__ == "scale"
"""


@pytest.mark.parametrize(
    ("saved", "loaded", "package"),
    [
        ("run/states.py:State", "run/states.py:State", False),
        ("a/run/states.py:State", "b/other/states.py:State", True),
        ("run.states:State", "states.py:State", True),
    ],
)
def test_a_state_of_one_folder_loads_in_another(tmp_path, saved, loaded, package):
    source = (
        "class Inner: count = 0\n"
        "def scale(x): return x\n"
        "class State:\n"
        "    def __init__(self): self.values, self.inner, self.scale = None, Inner(), scale\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(pyhook.__path__[0])}
    for side, what, spec in (("one", "save", saved), ("two", "load", loaded)):
        path = tmp_path / side / spec.partition(":")[0].replace("run.states", "run/states.py")
        path.parent.mkdir(parents=True)
        path.write_text(source)
        if package:
            (path.parent / "__init__.py").write_text("")
            if side == "one":  # there it is found as a module of the package
                environment["PYTHONPATH"] += os.pathsep + str(path.parent.parent)
        subprocess.run(
            [sys.executable, "-c", SAVES, what, spec, str(tmp_path / "state")],
            cwd=tmp_path / side, env=environment, check=True,
        )  # fmt: skip
