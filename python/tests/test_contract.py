import asyncio
import concurrent.futures
import warnings

import pytest
import torch
import torch.distributed as dist
from sample_hooks import async_hook, completed

from pyhook import HookContractError, callback_origin, testing
from pyhook._runtime.bucket_layout import BucketLayout
from pyhook._runtime.contract import require_future
from pyhook._runtime.result import parse_value


def layout_of(tensor):
    return BucketLayout(tensor, 0, 1, [0], [tensor.numel()], [tuple(tensor.shape)])


@pytest.fixture
def layout():
    return layout_of(torch.arange(6.0))


def refused(code, function, *arguments):
    with pytest.raises(HookContractError) as caught:
        function(*arguments)
    assert caught.value.code == code
    return str(caught.value)


def test_every_kind_of_torch_future_is_accepted(group):
    work = dist.all_reduce(torch.ones(2), async_op=True)
    plain = work.get_future()
    assert not isinstance(plain, torch.futures.Future)
    for future in (torch.futures.Future(), plain, plain.then(lambda f: f.value()[0])):
        assert require_future(future) is future
    plain.wait()


def test_none_is_an_error_and_no_crash():
    assert "got builtins.NoneType" in refused("none_result", require_future, None)


@pytest.mark.parametrize(
    ("make", "kind", "hint"),
    [
        (lambda: 1, "builtins.int", "Future of the reduced"),
        (lambda: torch.ones(2), "torch.Tensor", "set_result"),
        (lambda: [torch.futures.Future()], "builtins.list", "collect_all"),
        (concurrent.futures.Future, "concurrent.futures._base.Future", "set_result"),
        (lambda: torch.futures.Future, "builtins.type|torch._C|torch.futures", "class"),
        (lambda: lambda: 1, "builtins.function", "call missing"),
        (lambda: (x for x in ()), "builtins.generator", "yield"),
    ],
)
def test_what_is_no_future_is_named_with_pytorchs_words(make, kind, hint):
    text = refused("not_future", require_future, make())
    assert "callback must return a torch.futures.Future object, but got" in text
    assert any(k in text for k in kind.split("|"))
    assert hint in text


def test_a_work_gets_the_hint_for_works(group):
    work = dist.all_reduce(torch.ones(2), async_op=True)
    assert ".get_future().then(" in refused("not_future", require_future, work)
    work.wait()


def test_a_coroutine_is_closed_so_that_python_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = refused("not_future", require_future, async_hook(None, None))
    assert "builtins.coroutine" in text
    assert "async def" in text


def test_an_asyncio_future_is_refused():
    async def check():
        return refused("not_future", require_future, asyncio.get_running_loop().create_future())

    assert "set_result" in asyncio.run(check())


def test_the_error_is_a_runtime_error_as_pytorchs_is():
    with pytest.raises(RuntimeError, match=r"callback must return a torch\.futures\.Future object"):
        require_future(3)


def test_the_origin_of_a_callbacks_error_is_found_under_its_prefixes():
    def fails(future):
        raise ValueError("deep: down")

    child = completed(1).then(fails).then(lambda f: f.value()).then(lambda f: f.value())
    with pytest.raises(RuntimeError) as caught:
        child.value()
    origin = callback_origin(caught.value)
    assert (origin.type, origin.message) == ("ValueError", "deep: down")
    assert "fails" in origin.frames
    assert callback_origin(ValueError("other")) is None


def test_the_buffer_itself_comes_back_as_it_is(layout):
    assert parse_value(layout.tensor, layout) is layout.tensor


RESULTS = {
    "same shape": lambda t: t.clone(),
    "other dtypes": lambda t: t.to(torch.float16),
    "integers": lambda t: t.to(torch.int64),
    "two dimensions": lambda t: t.clone().view(2, 3),
    "surplus": lambda t: torch.cat([t, torch.full((4,), -1.0)]),
    "an offset view": lambda t: torch.cat([torch.full((3,), -1.0), t])[3:],
    "a strided view": lambda t: torch.stack([t, -t], 1)[:, 0],
    "strided with surplus": lambda t: torch.stack([torch.cat([t, t]), t.repeat(2)], 1)[:, 0],
    "transposed storage": lambda t: t.view(2, 3).t().contiguous().t(),
    "requires grad": lambda t: t.clone().requires_grad_(),
    "in a graph": lambda t: t.clone().requires_grad_() * 1,
    "a parameter": lambda t: torch.nn.Parameter(t.clone()),
    "a subclass": lambda t: t.clone().as_subclass(type("Sub", (torch.Tensor,), {})),
    "a negative view": lambda t: torch.complex(t, -t).conj().imag,
    "a list of one": lambda t: [t.clone()],
    "a tuple of one": lambda t: (t.clone(),),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_are_right(name, layout):
    value = RESULTS[name](layout.tensor)
    flat = parse_value(value, layout)
    assert type(flat) is torch.Tensor
    assert flat.shape == (6,)
    assert flat.is_contiguous()
    assert not flat.requires_grad
    assert not flat.is_neg()
    assert flat.tolist() == [0, 1, 2, 3, 4, 5]
    assert layout.tensor.tolist() == [0, 1, 2, 3, 4, 5]
    assert layout.legacy_names == ({"[tensor] result"} if "of one" in name else set())


def test_an_expanded_result_is_read_by_its_strides(layout):
    assert parse_value(torch.ones(1).expand(6), layout).tolist() == [1] * 6


def test_no_copy_is_made_where_none_is_needed(layout):
    value = torch.arange(12.0)[2:]
    assert parse_value(value, layout).data_ptr() == value.data_ptr()


def test_conjugate_bits_are_resolved():
    layout = layout_of(torch.complex(torch.ones(2), torch.ones(2)))
    flat = parse_value(layout.tensor.conj(), layout)
    assert not flat.is_conj()
    assert flat.tolist() == [1 - 1j, 1 - 1j]


def test_named_tensors_lose_their_names(layout):
    value = layout.tensor.clone()
    if hasattr(value, "refine_names"):  # gone in torch 2.14
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = value.refine_names("n")
    assert not getattr(parse_value(value, layout), "has_names", bool)()


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("none_value", lambda t: None),
        ("not_tensor", lambda t: 1.5),
        ("not_tensor", lambda t: t.numpy()),
        ("not_tensor", completed),
        ("list_value", lambda t: [t, t]),
        ("list_value", lambda t: []),
        ("list_value", lambda t: [None]),
        ("short", lambda t: t[:5]),
        ("sparse", lambda t: t.to_sparse()),
        ("sparse", lambda t: t.view(2, 3).to_sparse_csr()),
        ("meta", lambda t: torch.empty(6, device="meta")),
        ("layout", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        ("complex", lambda t: torch.complex(t, t)),
    ],
)
def test_results_that_are_refused(code, make, layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR and quantized are "beta" or "deprecated"
        value = make(layout.tensor)
    refused(code, parse_value, value, layout)


def test_the_real_form_of_a_complex_result_is_refused_and_not_cut_in_half():
    layout = layout_of(torch.complex(torch.ones(3), torch.ones(3)))
    assert "view_as_complex" in refused(
        "complex", parse_value, torch.view_as_real(layout.tensor), layout
    )
    assert "view_as_complex" in refused("complex", parse_value, torch.ones(3), layout)


def test_an_exception_as_the_value_is_raised(layout):
    with pytest.raises(KeyError, match="as a value"):
        parse_value(KeyError("as a value"), layout)


def test_nan_is_refused_only_when_asked(layout):
    value = torch.tensor([1.0, float("nan"), 1, float("inf"), 1, 1])
    assert parse_value(value, layout) is not None
    assert "2 of 6" in refused("nonfinite", parse_value, value, layout, True)
    assert parse_value(torch.ones(6, dtype=torch.int32), layout, True).sum() == 6


def test_a_sparse_bucket_takes_sparse_results_only():
    sparse = torch.sparse_coo_tensor([[0, 2]], torch.ones(2, 3), (4, 3))
    layout = BucketLayout(sparse, 0, 1, [], [], [])
    assert parse_value(sparse * 2, layout).is_sparse
    refused("sparse", parse_value, torch.ones(4, 3), layout)
    refused("short", parse_value, torch.sparse_coo_tensor([[0]], torch.ones(1, 2), (4, 2)), layout)


def test_a_future_that_never_completes_is_a_timeout():
    bucket = testing.bucket([torch.ones(2)])
    refused("result_timeout", testing.run, lambda s, b: torch.futures.Future(), None, bucket, 0.2)


def test_run_casts_to_the_dtype_of_the_bucket():
    bucket = testing.bucket([torch.ones(3)])
    result = testing.run(lambda s, b: completed(b.buffer().half() * 2), None, bucket)
    assert result.dtype == torch.float32
    assert result.tolist() == [2, 2, 2]


def test_a_complex_result_is_refused_also_where_the_buffer_was_made_complex(layout):
    layout.tensor.data = layout.tensor.to(torch.complex64)
    with pytest.raises(HookContractError) as caught:
        parse_value(layout.tensor, layout)
    assert caught.value.code == "complex"
