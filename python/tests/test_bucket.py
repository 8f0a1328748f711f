import gc
import weakref

import pytest
import torch
import torch.distributed as dist

from pyhook import testing
from pyhook._errors import StateError
from pyhook._runtime.bucket import Bucket, new_bucket
from pyhook._runtime.bucket_layout import BucketLayout
from pyhook._runtime.sparse import sparse_layout
from pyhook._state.decode import _new


@pytest.fixture
def layout():
    return BucketLayout(torch.arange(10.0), 1, 3, [0, 6], [6, 4], [(2, 3), (4,)])


def test_a_bucket_is_a_real_grad_bucket(layout):
    bucket = new_bucket(layout)
    assert isinstance(bucket, dist.GradBucket)
    assert isinstance(bucket, Bucket)
    assert bucket.__class__ is Bucket
    assert not hasattr(bucket, "__dict__")
    assert (bucket.index(), bucket.is_last()) == (1, False)
    assert "2 of 3" in repr(bucket)


def sparse_bucket():
    indices, values = torch.tensor([[0, 2]]), torch.ones(2, 3)
    return new_bucket(sparse_layout(indices, values, (4, 3), 0, 1, torch.zeros(4, 3)))


METHODS = [
    name
    for name, method in vars(dist.GradBucket).items()
    if callable(method) and not name.startswith("_")
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", ["dense", "sparse"])
def test_cpps_own_methods_refuse_a_bucket_that_cpp_did_not_make(make, name):
    bucket = testing.bucket([torch.ones(2, 3)]) if make == "dense" else sparse_bucket()
    method = getattr(dist.GradBucket, name)
    arguments = [torch.ones(6)] if name == "set_buffer" else []
    with pytest.raises(TypeError, match="incompatible function arguments"):
        method(bucket, *arguments)
    assert isinstance(bucket, dist.GradBucket)


def test_cpps_methods_are_all_of_them():
    assert {"buffer", "gradients", "index", "is_last", "parameters", "set_buffer"} <= set(METHODS)


@pytest.mark.parametrize(
    "name",
    ["torch._C._distributed_c10d.GradBucket", "torch.distributed.Store", "torch.futures.Future"],
)
def test_a_saved_state_makes_no_instance_of_cpps_classes(name):
    with pytest.raises(StateError, match="C\\+\\+'s"):
        _new(name)


@pytest.mark.parametrize("make", [Bucket, lambda: Bucket.__new__(Bucket)])
def test_nobody_makes_a_bucket_whose_cpp_half_is_missing(make):
    with pytest.raises(TypeError, match="No constructor"):
        make()


def test_making_buckets_leaks_nothing(layout):
    bucket = new_bucket(layout)
    gone = weakref.ref(bucket)
    del bucket
    gc.collect()
    assert gone() is None


def test_gradients_are_views_of_the_buffer(layout):
    bucket = new_bucket(layout)
    first, second = bucket.gradients()
    assert (first.shape, second.shape) == ((2, 3), (4,))
    second.fill_(-1)
    first[1, 2] = 50
    assert bucket.buffer().tolist() == [0, 1, 2, 3, 4, 50, -1, -1, -1, -1]
    assert bucket.gradients() is not bucket.gradients()
    assert bucket.gradients()[0] is first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g.t_(),
        lambda g: g.unsqueeze_(0),
        lambda g: g.requires_grad_(),
        lambda g: g.resize_(1),
        lambda g: setattr(g, "data", torch.zeros(2, 3)),
    ],
)
def test_what_a_hook_does_to_a_view_does_not_stay(layout, spoil):
    spoil(new_bucket(layout).gradients()[0])
    view = new_bucket(layout).gradients()[0]
    assert view.shape == (2, 3)
    assert not view.requires_grad
    assert view.data_ptr() == layout.tensor.data_ptr()


def test_set_buffer_changes_this_bucket_only(layout):
    bucket = new_bucket(layout)
    half = torch.zeros(10, dtype=torch.float16)
    bucket.set_buffer(buffer=half)
    assert bucket.buffer() is half
    assert bucket.gradients()[0].dtype == torch.float16
    assert bucket.gradients()[1].data_ptr() == half[6:].data_ptr()
    assert "set_buffer" in repr(bucket)
    after = new_bucket(layout)
    assert after.buffer() is layout.tensor
    assert after.gradients()[0].dtype == torch.float32
    assert layout.tensor[5] == 5


def test_a_bucket_that_a_hook_keeps_stays_valid(layout):
    kept = new_bucket(layout)
    for _ in range(3):
        new_bucket(layout).set_buffer(torch.zeros(1))
    gc.collect()
    assert kept.buffer() is layout.tensor
    assert kept.gradients()[1].tolist() == [6, 7, 8, 9]


def test_old_method_names_work_and_are_noted(layout):
    bucket = new_bucket(layout)
    assert bucket.get_index() == 1
    assert bucket.get_tensor() is bucket.buffer()
    assert bucket.get_tensors() == [bucket.buffer()]
    assert len(bucket.get_per_parameter_tensors()) == 2
    assert bucket.is_the_last_bucket_to_allreduce() is False
    bucket.set_tensor(torch.zeros(10), 0)
    assert bucket.buffer().sum() == 0
    assert layout.legacy_names == {
        "get_index", "get_tensor", "get_tensors", "get_per_parameter_tensors",
        "is_the_last_bucket_to_allreduce", "set_tensor",
    }  # fmt: skip


def test_given_parameters_keep_their_identity_over_layouts():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    memories = [torch.zeros(4), torch.ones(4)]
    layouts = [BucketLayout(m, 0, 1, [0], [4], [(2, 2)], params=[weight]) for m in memories]
    for i in (0, 1, 0, 1):  # memory that moves from step to step, and back
        (parameter,) = new_bucket(layouts[i]).parameters()
        assert parameter is weight
        assert parameter.grad.data_ptr() == memories[i].data_ptr()


def test_given_tensors_are_wrapped_and_share_memory():
    value = torch.zeros(4)
    layout = BucketLayout(torch.ones(4), 0, 1, [0], [4], [(4,)], params=[value])
    (parameter,) = new_bucket(layout).parameters()
    with torch.no_grad():
        parameter.add_(parameter.grad)
    assert value.tolist() == [1, 1, 1, 1]


def test_a_grad_that_the_hook_set_stays_until_it_is_cleared(layout):
    parameter = new_bucket(layout).parameters()[1]
    parameter.grad = torch.full((4,), 9.0)
    assert new_bucket(layout).parameters()[1].grad.tolist() == [9] * 4
    parameter.grad = None
    assert new_bucket(layout).parameters()[1].grad.tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16", "complex64", "int64", "bool"])
def test_placeholder_parameters_have_the_right_kind(name):
    dtype = getattr(torch, name)
    layout = BucketLayout(torch.zeros(6).to(dtype), 0, 1, [0, 4], [4, 2], [(2, 2), (2,)])
    first, second = new_bucket(layout).parameters()
    assert isinstance(first, torch.nn.Parameter)
    assert (first.shape, second.shape, first.dtype) == ((2, 2), (2,), dtype)
    assert first.requires_grad == (dtype.is_floating_point or dtype.is_complex)
    assert first.grad.data_ptr() == layout.tensor.data_ptr()
    again = new_bucket(layout).parameters()
    assert [p is q for p, q in zip([first, second], again)] == [
        True,
        True,
    ]
    assert first.view(-1).shape == (4,)
    assert torch.zeros_like(first).is_contiguous()


def test_placeholder_values_are_not_silently_zero(layout):
    parameter = new_bucket(layout).parameters()[0]
    assert torch.isnan(parameter).all()
    with torch.no_grad(), pytest.raises(RuntimeError, match="memory location"):
        parameter.add_(1)


def test_intact_is_false_when_a_hook_replaced_the_memory(layout):
    assert layout.intact()
    layout.tensor.data = torch.zeros(10)
    assert not layout.intact()


@pytest.mark.parametrize("change", ["dtype", "stride", "grad"])
def test_intact_is_false_when_a_hook_changed_the_form_of_the_same_memory(layout, change):
    buffer = layout.tensor
    if change == "dtype":
        buffer.data = buffer.view(torch.int32)
    elif change == "stride":
        buffer.as_strided_((buffer.numel(),), (0,))
    else:
        buffer.requires_grad_()
    assert not layout.intact()


def test_a_sparse_bucket_has_no_views():
    sparse = torch.sparse_coo_tensor([[0, 2]], torch.ones(2, 3), (4, 3))
    layout = BucketLayout(sparse, 0, 1, [], [], [])
    bucket = new_bucket(layout)
    assert bucket.gradients() == []
    assert bucket.buffer() is sparse
    assert bucket.parameters()[0].grad is sparse
    assert layout.intact()


def test_empty_gradients_keep_their_shape():
    layout = BucketLayout(torch.zeros(2), 0, 1, [0, 0, 2], [0, 2, 0], [(0, 3), (2,), (5, 0)])
    assert [tuple(g.shape) for g in new_bucket(layout).gradients()] == [(0, 3), (2,), (5, 0)]
    assert len(new_bucket(layout).parameters()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(4), 0, 1, [0], [4, 1], [(4,)]), "as many"),
        ((torch.zeros(4), 1, 1, [0], [4], [(4,)]), "index 1"),
        ((torch.zeros(4), 0, 1, [1], [4], [(4,)]), "does not fit"),
        ((torch.zeros(4), 0, 1, [0], [4], [(3,)]), "does not fit"),
        ((torch.zeros(2, 2), 0, 1, [0], [4], [(4,)]), "1-D"),
        ((torch.zeros(4), 0, 1, [0], [4], [(4,)], []), "0 parameters"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        BucketLayout(*arguments)


def test_testing_bucket_packs_copies_in_order(gradients):
    bucket = testing.bucket(gradients, index=2, count=3)
    assert bucket.buffer().tolist() == torch.cat([g.reshape(-1) for g in gradients]).tolist()
    assert all(torch.equal(a, b) for a, b in zip(bucket.gradients(), gradients))
    assert bucket.is_last()
    bucket.buffer().zero_()
    assert gradients[0].abs().sum() > 0
