import functools
import os
import pickle
import subprocess
import sys

import pytest
import sample_hooks
import torch
import torch.distributed as dist

import pyhook
from pyhook import HookLoadError, build_state, check_hook, hook_name, load_hook, testing
from pyhook._loading.names import SHORT_NAMES, STATE_SHORT_NAMES


def refused(code, function, *arguments):
    with pytest.raises(HookLoadError) as caught:
        function(*arguments)
    assert caught.value.code == code
    return caught.value


@pytest.fixture
def hook_file(tmp_path):
    path = tmp_path / "my-hooks.py"
    path.write_text(
        "import neighbour\n"
        "import torch\n"
        "class State: pass\n"
        "def hook(state, bucket):\n"
        "    future = torch.futures.Future()\n"
        "    future.set_result(bucket.buffer() * neighbour.FACTOR)\n"
        "    return future\n"
    )
    (tmp_path / "neighbour.py").write_text("FACTOR = 4\n")
    return path


def test_by_module_and_dotted_name():
    assert load_hook("sample_hooks:doubled") is sample_hooks.doubled
    assert load_hook(" sample_hooks:Holder.hook ") is sample_hooks.Holder.hook


def test_by_file_once_and_under_a_name_that_pickles(hook_file, monkeypatch):
    hook = load_hook(f"{hook_file}:hook")
    monkeypatch.chdir(hook_file.parent)
    assert load_hook("my-hooks.py:hook") is hook
    assert load_hook("./my-hooks.py:hook") is hook
    assert pickle.loads(pickle.dumps(hook)) is hook
    state = build_state("my-hooks.py:State")
    assert type(pickle.loads(pickle.dumps(state))) is type(state)
    bucket = testing.bucket([torch.ones(2)])
    assert testing.run(hook, None, bucket).tolist() == [4, 4]


def test_wrappers_nest():
    bucket = testing.bucket([torch.ones(2)])
    hook = load_hook("sample_hooks:twice(sample_hooks:twice( sample_hooks:doubled ))")
    assert testing.run(hook, None, bucket).tolist() == [8, 8]
    hook = load_hook("sample_hooks:sum_of(noop, sample_hooks:twice(noop))")
    assert testing.run(hook, None, bucket).tolist() == [3, 3]


@pytest.mark.parametrize("name", sorted(set(SHORT_NAMES) - {"fp16_wrapper", "bf16_wrapper"}))
def test_every_short_name_is_a_hook(name):
    assert load_hook(name).__module__.startswith("torch.distributed.algorithms.ddp_comm_hooks")


def test_the_old_annotation_name_exists_once_a_hook_was_loaded(tmp_path):
    path = tmp_path / "old.py"
    path.write_text(
        "import torch.distributed as dist\n"
        "def hook(state: object, bucket: dist._GradBucket): return None\n"
    )
    load_hook(f"{path}:hook")
    assert dist._GradBucket is dist.GradBucket


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ("", "bad_spec", "package.module:name"),
        ("powersgdd", "bad_spec", "did you mean powersgd"),
        ("my.hooks.fp16", "bad_spec", "my.hooks:fp16"),
        ("hooks.py", "bad_spec", "hooks.py:my_hook"),
        ("sample_hooks:not-a-name", "bad_spec", ""),
        ("twice(noop))", "bad_spec", "brackets"),
        ("no_such_module_at_all:hook", "no_module", "PYTHONPATH"),
        ("sample_hooks.sub:hook", "no_module", "sample_hooks is here and has no sample_hooks.sub"),
        ("torch.distributed.no_such:hook", "no_module", "and has no torch.distributed.no_such"),
        ("no/such/file.py:hook", "no_file", "working directory"),
        ("sample_hooks:doubledd", "no_attribute", "did you mean doubled"),
        ("sample_hooks:zzz", "no_attribute", "mean_by_then"),
        ("sample_hooks:NOT_A_HOOK", "not_callable", "int"),
        ("sample_hooks:NOT_A_HOOK(noop)", "not_callable", "int"),
        ("sample_hooks:CountingState", "not_callable", "state"),
        ("sample_hooks:one_argument", "arity", "(bucket)"),
        ("sample_hooks:twice", "arity", "wrapper"),
        ("fp16_wrapper", "arity", "wrapper"),
        ("fp16_wrapper(noop, noop)", "arity", "2 hook"),
        ("fp16_wrapper(sample_hooks:one_argument)", "arity", "one_argument"),
        ("sample_hooks:async_hook", "async", "plain def"),
        ("sample_hooks:generator_hook", "generator", "yield"),
    ],
)
def test_what_cannot_be_loaded_says_why(spec, code, words):
    assert words in str(refused(code, load_hook, spec))


@pytest.mark.parametrize(
    ("source", "cause", "words"),
    [
        ("import no_such_thing_xyz", ModuleNotFoundError, "install no_such_thing_xyz into"),
        ("import no_such_thing_xyz.part", ModuleNotFoundError, "install no_such_thing_xyz into"),
        (
            "import torch.distributed.no_such",
            ModuleNotFoundError,
            f"torch {torch.__version__} is here and has no torch.distributed.no_such",
        ),
        (
            "from torch.distributed import no_such",
            ImportError,
            f"torch {torch.__version__} has no such name",
        ),
        (
            "import json.no_such",
            ModuleNotFoundError,
            "a part of Python" if sys.version_info >= (3, 10) else "has no json.no_such",
        ),
        ("1 / 0", ZeroDivisionError, "division"),
        ("def f(:", SyntaxError, "SyntaxError"),
        ("raise SystemExit(2)", SystemExit, "__main__"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_an_error_inside_the_module_is_kept_as_the_cause(
    tmp_path, monkeypatch, source, cause, words, as_file
):
    name = f"broken_{cause.__name__.lower()}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = f"{tmp_path}/{name}.py:hook" if as_file else f"{name}:hook"
    error = refused("import_failed", load_hook, spec)
    assert isinstance(error.__cause__, cause)
    assert words in str(error)
    assert "install torch" not in str(error)
    refused("import_failed", load_hook, spec)  # nothing half-made stays behind


def with_default(state, bucket, extra=1):
    return None


def keyword_only(state, bucket, *, extra):
    return None


def decorated(hook):
    @functools.wraps(hook)
    def call(state, bucket):
        return hook(bucket)

    return call


@pytest.mark.parametrize(
    "hook",
    [
        with_default,
        lambda *arguments: None,
        functools.partial(with_default, extra=2),
        functools.partial(keyword_only, extra=2),
        sample_hooks.Holder(),
        sample_hooks.Holder().method,
        decorated(sample_hooks.one_argument),
        min,  # a C function without a signature
    ],
)
def test_hooks_that_ddp_would_refuse_or_not_are_accepted(hook):
    check_hook(hook)


def test_a_required_third_parameter_is_refused():
    assert "extra" in str(refused("arity", check_hook, keyword_only))


def test_an_async_call_is_refused_however_it_is_wrapped():
    refused("async", check_hook, functools.partial(sample_hooks.async_hook))

    class Callable:
        async def __call__(self, state, bucket):
            return None

    refused("async", check_hook, Callable())


def test_names_say_what_the_hook_is():
    assert hook_name(sample_hooks.doubled) == "sample_hooks.doubled"
    assert hook_name(sample_hooks.Holder().method) == "sample_hooks.Holder.method"
    assert hook_name(sample_hooks.Holder()) == "sample_hooks.Holder instance"
    assert hook_name(functools.partial(with_default)).startswith("functools.partial(")
    assert "twice_hook" in hook_name(sample_hooks.twice(sample_hooks.doubled))
    assert hook_name(min) == "builtins.min"


def test_a_state_gets_its_process_group(group):
    state = build_state("sample_hooks:CountingState", {"factor": 2}, group)
    assert (state.process_group, state.factor) == (group, 2)
    assert build_state("sample_hooks:CountingState").process_group is dist.group.WORLD
    given = build_state("sample_hooks:CountingState", {"process_group": 7}, group)
    assert given.process_group == 7


@pytest.mark.parametrize("name", STATE_SHORT_NAMES)
def test_states_that_pytorch_ships(name, group):
    kwargs = {"start_localSGD_iter": 5} if "local" in name else {"matrix_approximation_rank": 2}
    assert build_state(name, kwargs, group).process_group is group


def test_wrong_state_arguments_list_the_right_ones():
    error = refused("bad_arguments", build_state, "powersgd", {"rank": 1})
    assert "matrix_approximation_rank" in str(error)
    with pytest.raises(ValueError, match="start_powerSGD_iter"):  # the constructor's own
        build_state("powersgd", {"start_powerSGD_iter": 1})


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(HookLoadError("arity", "message", "hint")))
    assert (error.code, error.hint, str(error)) == ("arity", "hint", "message\nhint: hint")


def test_pyhook_imports_without_torch_and_says_so_when_it_is_needed(tmp_path):
    root = os.path.dirname(os.path.dirname(pyhook.__file__))
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': raise ModuleNotFoundError('no torch', name='torch')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import pyhook\n"
        "assert pyhook.__version__ and pyhook.HookError and 'torch' not in sys.modules\n"
        "assert pyhook.load_hook('torchless:hook')(1, 2) == 3\n"
        "for name in ('testing', 'Bucket', 'parse_value'):\n"
        "    try: getattr(pyhook, name)\n"
        "    except ImportError as error: assert 'pip install torch' in str(error), error\n"
        "    else: raise SystemExit(name)\n"
    )
    (tmp_path / "torchless.py").write_text("def hook(state, bucket): return state + bucket\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
