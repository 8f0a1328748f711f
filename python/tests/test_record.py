"""Recording under DDP itself, on a real gloo group of one rank."""

import functools
import importlib
import json
import os
import pathlib
import resource
import sys
import warnings
from multiprocessing import util

import jsonschema
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import pyhook
from pyhook._record.describe import describe_hook, describe_state

pytestmark = pytest.mark.usefixtures("group")
SCHEMA = json.loads(
    (pathlib.Path(__file__).parents[2] / "internal/trace/manifest.schema.json").read_text()
)


def train(folder, hook, state=None, steps=4, ddp_options=(), **options):
    """Train three layers, recorded if there is a folder, and return the weights."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(*(torch.nn.Linear(n, n + 1) for n in (5, 6, 7)))
    ddp = DistributedDataParallel(model, **{"bucket_cap_mb": 1e-4, **dict(ddp_options)})
    given = (state, hook)
    if folder is not None:
        given = pyhook.record(state, hook, str(folder), **options)
    ddp.register_comm_hook(*given)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        ddp(torch.randn(4, 5)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def recorder_of(function):
    """Return the Recorder behind what record() returned."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__))
    return cells["recorder"].cell_contents


def finished(folder):
    """Return a finished recording's manifest."""
    for finalizer in list(util._finalizer_registry.values()):
        owner = getattr(finalizer._callback, "__self__", None)
        if type(owner).__name__ == "Recorder":
            finalizer()  # what the end of the process calls
    manifest = json.loads((folder / "rank0" / "manifest.json").read_text())
    jsonschema.validate(manifest, SCHEMA)
    return manifest


def doubled(state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer() * 2)
    return future


def offset_view(state, bucket):
    """Give a result that DDP reads wrong: it begins in the middle of its memory."""
    future = torch.futures.Future()
    wide = torch.cat([torch.full((3,), 9.0), bucket.buffer() * 2])
    future.set_result(wide[3:])
    return future


def every_other(state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer().repeat_interleave(2)[::2])
    return future


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("hook", [default_hooks.allreduce_hook, doubled, offset_view])
def test_recording_changes_no_bit(tmp_path, hook, view):
    options = {"gradient_as_bucket_view": view}
    plain = train(None, hook, ddp_options=options)
    recorded = train(tmp_path / "trace", hook, ddp_options=options, steps=4)
    assert plain.numpy().tobytes() == recorded.numpy().tobytes()


def test_what_is_recorded(tmp_path):
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    ddp = DistributedDataParallel(model)
    gradients = []

    def noted(state, bucket):
        gradients.append(bucket.buffer().clone())
        return doubled(state, bucket)

    ddp.register_comm_hook(*pyhook.record(None, noted, str(tmp_path), steps=2, model=ddp))
    for _ in range(4):
        ddp(torch.randn(4, 3)).sum().backward()
    manifest = finished(tmp_path)
    assert (manifest["complete"], manifest["ended"]) == (True, "steps")
    assert [s["step"] for s in manifest["steps"]] == [0, 1]
    names = [p["name"] for p in manifest["parameters"]]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for number, step in enumerate(manifest["steps"]):
        (call,) = step["calls"]
        file = load_file(tmp_path / "rank0" / call["file"])
        assert torch.equal(file["input"], gradients[number])
        assert torch.equal(file["result"], gradients[number] * 2)
        layout = manifest["layouts"][call["layout"]]
        total = 0
        for gradient in layout["gradients"]:
            assert gradient["offset"] == total
            total += gradient["length"]
        assert total == layout["numel"] == gradients[number].numel()
    assert sorted(os.listdir(tmp_path / "rank0")) == [
        "manifest.json",
        "step000000.bucket0000.safetensors",
        "step000001.bucket0000.safetensors",
    ]
    assert len({f.stat().st_mode for f in (tmp_path / "rank0").iterdir()}) == 1


@pytest.mark.parametrize(("hook", "offset", "stride"), [(offset_view, 3, 1), (every_other, 0, 2)])
def test_a_result_that_ddp_reads_wrong_is_recorded_right(tmp_path, hook, offset, stride):
    train(tmp_path, hook, steps=1)
    (call, *_) = finished(tmp_path)["steps"][0]["calls"]
    assert (call["result"]["offset"], call["result"]["stride"]) == (offset, [stride])
    file = load_file(tmp_path / "rank0" / call["file"])
    factor = 2 if hook is offset_view else 1
    assert torch.equal(file["result"], file["input"] * factor)


def test_the_state_is_that_before_the_first_recorded_call(tmp_path):
    def state():
        return powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=2, min_compression_rate=1)

    hook = powerSGD_hook.powerSGD_hook
    one = {"bucket_cap_mb": 25}  # with several buckets PowerSGD hangs under DDP on gloo
    train(tmp_path / "a", hook, state(), steps=8, ddp_options=one)
    manifest = finished(tmp_path / "a")
    saved = (tmp_path / "a" / "rank0" / manifest["steps"][0]["state"]).read_bytes()
    fresh = pyhook.load_state(saved, into=state())
    assert (fresh.iter, fresh.error_dict) == (0, {})
    assert [step["state"] for step in manifest["steps"][1:]] == [None] * 7
    assert (manifest["hook"]["spec"], manifest["state"]["spec"]) == ("powersgd", "powersgd")

    train(tmp_path / "b", hook, state(), steps=8, ddp_options=one, every=3)
    manifest = finished(tmp_path / "b")
    assert [step["step"] for step in manifest["steps"]] == [0, 3, 6]
    assert manifest["ended"] == "program"
    for step in manifest["steps"]:
        saved = (tmp_path / "b" / "rank0" / step["state"]).read_bytes()
        assert (pyhook.load_state(saved, into=state()).iter > 0) == (step["step"] > 0)


class Unsafe:
    def __init__(self):
        self.left = [torch.futures.Future()]


def test_a_state_that_cannot_be_saved_is_named_and_the_calls_are_recorded(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"state\.left\[0\]") as caught:
        train(tmp_path, doubled, Unsafe())
    assert len(caught) == 1
    step = finished(tmp_path)["steps"][0]
    assert step["state"] is None
    assert "state.left[0]" in step["state_not_saved"]
    assert len(step["calls"]) >= 1


def test_the_limit_ends_it_with_one_warning(tmp_path):
    plain = train(None, doubled, steps=9)
    with pytest.warns(RuntimeWarning, match=r"ended after \d of 10 steps: .*limit_gb") as caught:
        recorded = train(tmp_path, doubled, steps=9, limit_gb=6e-5)
    assert len(caught) == 1
    assert torch.equal(plain, recorded)
    manifest = finished(tmp_path)
    assert (manifest["complete"], manifest["ended"]) == (True, "limit")
    assert len(manifest["steps"]) > 1
    assert sum(f.stat().st_size for f in (tmp_path / "rank0").iterdir()) <= 60000


class Large:
    def __init__(self):
        self.kept = torch.zeros(100_000)


def test_a_state_beyond_the_limit_is_not_written(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"ended after 0 of 10 steps: the hook's state of \d+"):
        train(tmp_path, doubled, Large(), limit_gb=1e-4)
    assert finished(tmp_path)["steps"] == []
    assert os.listdir(tmp_path / "rank0") == ["manifest.json"]


def test_a_hook_that_raises_before_the_last_bucket_is_in_the_manifest(tmp_path, monkeypatch):
    # As newer ones, torch 1.13 is to let bucket_cap_mb count for the first bucket too.
    monkeypatch.setattr(dist, "_DEFAULT_FIRST_BUCKET_BYTES", 100)
    seen = []

    def third(state, bucket):
        seen.append(bucket.index())
        if len(seen) == 3:  # after a step of one bucket and the first of several
            raise ZeroDivisionError
        return doubled(state, bucket)

    with pytest.raises((RuntimeError, ZeroDivisionError)):
        train(tmp_path, third)
    first, second = finished(tmp_path)["steps"]
    assert [len(first["calls"]), len(second["calls"])] == [1, 2]
    assert "ZeroDivisionError" in second["calls"][1]["result"]["error"]


def test_the_manifest_of_many_steps_is_whole_in_the_end(tmp_path):
    _, hook = pyhook.record(None, doubled, str(tmp_path), steps=200)
    train(None, hook, steps=120)
    before = json.loads((tmp_path / "rank0" / "manifest.json").read_text())
    assert before["complete"] is False
    assert [step["step"] for step in finished(tmp_path)["steps"]] == list(range(120))


def test_a_full_disk_warns_once_and_the_training_goes_on(tmp_path):
    plain = train(None, doubled, steps=6)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        state, hook = pyhook.record(None, doubled, str(tmp_path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # a write beyond it fails
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            recorded = train(None, hook, state, steps=6)
            recorder_of(hook)._program_ends()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (warning,) = (w for w in caught if w.category is RuntimeWarning)
    assert "cannot be written" in str(warning.message)
    assert torch.equal(plain, recorded)
    assert not list((tmp_path / "rank0").glob("*.tmp"))
    manifest = json.loads((tmp_path / "rank0" / "manifest.json").read_text())
    assert manifest["complete"] is False


def test_warnings_that_are_errors_do_not_reach_the_training(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, doubled, limit_gb=1e-9)
    assert "limit_gb" in capsys.readouterr().err


def test_what_cannot_begin(tmp_path):
    def code(**options):
        with pytest.raises(pyhook.RecordError) as caught:
            pyhook.record(None, doubled, str(tmp_path / "trace"), **options)
        return caught.value.code

    assert code(steps=0) == code(every=-1) == code(steps=1.5) == code(limit_gb=0) == "bad_argument"
    pyhook.record(None, doubled, str(tmp_path / "trace"))
    assert code() == "folder"
    (tmp_path / "file").write_text("")
    with pytest.raises(pyhook.RecordError, match="cannot be written"):
        pyhook.record(None, doubled, str(tmp_path / "file"))
    with pytest.raises(pyhook.HookLoadError):
        pyhook.record(None, 3, str(tmp_path / "other"))


def test_without_a_group(tmp_path):
    dist.destroy_process_group()
    with pytest.raises(pyhook.RecordError, match=r"after torch\.distributed\.init") as caught:
        pyhook.record(None, doubled, str(tmp_path))
    assert caught.value.code == "no_group"


def test_without_safetensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.delitem(sys.modules, "pyhook._record.writer")
    with pytest.raises(pyhook.RecordError, match="pip install safetensors") as caught:
        importlib.import_module("pyhook._record.writer")
    assert caught.value.code == "no_safetensors"


def raises(state, bucket):
    raise ZeroDivisionError("of the hook")


def gives_none(state, bucket):
    return None


def late_error(state, bucket):
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda f: 1 // 0)


def native_list(state, bucket):
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future()


def python_list(state, bucket):
    return native_list(state, bucket).then(lambda f: f.value())


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (raises, "of the hook"),
        (late_error, "ZeroDivisionError"),
        (native_list, "PyObject|cast"),  # each has words of its own for the same refusal
        (python_list, "cast"),
    ],
)
def test_what_ddp_refuses_it_refuses_when_recorded(tmp_path, hook, words):
    with pytest.raises((RuntimeError, ZeroDivisionError), match=words) as plain:
        train(None, hook)
    with pytest.raises(type(plain.value), match=words):
        train(tmp_path, hook)
    (call,) = finished(tmp_path)["steps"][0]["calls"]
    assert call["result"]["error"]


class Scaled:
    def __init__(self, factor=1.0, names=()):
        self.factor = factor

    def __call__(self, state, bucket):
        return doubled(state, bucket)

    def method(self, state, bucket):
        return doubled(state, bucket)


def scaled(state, bucket, factor=1.0):
    return doubled(state, bucket)


HERE = __name__


@pytest.mark.parametrize(
    ("hook", "spec", "why"),
    [
        (default_hooks.allreduce_hook, "allreduce", None),
        (
            default_hooks.fp16_compress_wrapper(powerSGD_hook.powerSGD_hook),
            "fp16_wrapper(powersgd)",
            None,
        ),
        (doubled, f"{HERE}:doubled", None),
        (
            functools.partial(scaled, factor=2.5),
            f"functools:partial({HERE}:scaled, factor=2.5)",
            None,
        ),
        (Scaled(3.0), f"{HERE}:Scaled(factor=3.0)", None),
        (lambda state, bucket: None, None, "a lambda"),
        (Scaled().method, None, "a method of an object of Scaled"),
        (
            default_hooks.fp16_compress_wrapper(lambda state, bucket: None),
            None,
            "a lambda",
        ),
        (functools.partial(scaled, factor=torch.ones(1)), None, "a text cannot give"),
    ],
)
def test_how_a_hook_is_found_again(hook, spec, why):
    described = describe_hook(hook)
    assert described["spec"] == spec
    assert (described["no_spec"] is None) == (why is None)
    assert (why or "") in (described["no_spec"] or "")
    if spec is not None and "wrapper" not in spec and "Scaled" not in spec:
        assert pyhook.hook_name(pyhook.load_hook(spec)) == pyhook.hook_name(hook)


def test_a_hook_of_the_program_is_named_so():
    main = sys.modules["__main__"]
    made = type(doubled)(doubled.__code__, doubled.__globals__, "mine")
    made.__module__, made.__qualname__ = "__main__", "mine"
    assert "__main__" in describe_hook(made)["no_spec"] or not hasattr(main, "__file__")


def test_how_a_state_is_found_again():
    class Local:
        pass

    assert describe_state(doubled, None)["spec"] is None
    assert describe_state(doubled, Scaled(2.0))["spec"] == f"{HERE}:Scaled(factor=2.0)"
    assert "inside of" in describe_state(doubled, Local())["no_spec"]
    group = describe_state(doubled, dist.group.WORLD)
    assert group["groups"] == [{"attribute": "", "ranks": [0]}]
