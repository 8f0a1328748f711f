"""Which hooks bear that buckets overlap."""

import functools
import importlib

import pytest
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from pyhook import HookLoadError
from pyhook._runtime import order


def test_each_proven_hook_is_there_and_ordered():
    for module, names in order.PROVEN.items():
        for name in names:
            assert order.hook_order(getattr(importlib.import_module(module), name)) == "ordered"
    # tests/order (proven) runs each of these on real ranks in both orders.
    assert sorted(name for names in order.PROVEN.values() for name in names) == [
        "allreduce_hook",
        "bf16_compress_hook",
        "fp16_compress_hook",
        "noop_hook",
        "post_localSGD_hook",
        "quantization_perchannel_hook",
        "quantization_pertensor_hook",
    ]


def test_a_wrapper_is_as_safe_as_the_hook_inside():
    for wrapper in (default_hooks.fp16_compress_wrapper, default_hooks.bf16_compress_wrapper):
        assert order.hook_order(wrapper(default_hooks.allreduce_hook)) == "ordered"
        assert order.hook_order(wrapper(wrapper(default_hooks.allreduce_hook))) == "ordered"
        assert order.hook_order(wrapper(powerSGD_hook.powerSGD_hook)) == "serial"
    assert order.hook_order(functools.partial(default_hooks.allreduce_hook)) == "ordered"


def test_powersgd_and_what_only_bears_a_proven_name_are_serial():
    assert order.hook_order(powerSGD_hook.powerSGD_hook) == "serial"
    assert order.hook_order(powerSGD_hook.batched_powerSGD_hook) == "serial"

    @functools.wraps(default_hooks.allreduce_hook)
    def own(state, bucket):
        return default_hooks.allreduce_hook(state, bucket)

    assert own.__module__ == default_hooks.__name__
    assert order.hook_order(own) == "serial"


def test_a_hook_may_say_so_itself():
    class Hook:
        pyhook_order = "ordered"

        def __call__(self, state, bucket): ...

        def method(self, state, bucket): ...

        method.pyhook_order = "serial"

    assert order.hook_order(Hook()) == "ordered"
    assert order.hook_order(Hook().method) == "serial"
    assert order.hook_order(default_hooks.fp16_compress_wrapper(Hook())) == "ordered"
    Hook.pyhook_order = "whatever"
    with pytest.raises(HookLoadError, match="'whatever'") as error:
        order.hook_order(Hook())
    assert error.value.code == "order"
