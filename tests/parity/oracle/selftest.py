#!/usr/bin/env python3
"""Tests of the oracle: run ``python selftest.py`` with each torch at hand (about 15 seconds).

An oracle that is wrong in the same way as the code under test proves nothing, so its outputs
are compared with sums done here by hand, and each way in which PyTorch can fail is provoked.
"""

# ruff: noqa: PT009, PT027  (unittest, so that torch is all it needs)
from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import oracle
from oracle_case import OracleError, load_case
from oracle_rank import RUNNERS
from oracle_torch import dist, torch

HERE = Path(__file__).resolve().parent
HOOKS = "torch.distributed.algorithms.ddp_comm_hooks"


def raising_hook(state: Any, bucket: Any) -> Any:
    """A hook that raises, to see where and how PyTorch reports it."""
    raise ValueError(f"boom in bucket {bucket.index()}")


def hanging_hook(state: Any, bucket: Any) -> Any:
    """A hook whose future never completes: PyTorch waits for ever."""
    return torch.futures.Future()


def crashing_hook(state: Any, bucket: Any) -> Any:
    """A hook that takes its process down on one rank."""
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGABRT)
    return torch.futures.Future()


class OracleTest(unittest.TestCase):
    """Each test runs small cases in a fresh folder."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="oracle-selftest-")
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def case(self, name: str = "c", **keys: Any) -> dict[str, Any]:
        """Write and load a small case."""
        keys.setdefault(
            "params",
            [
                {"name": "w", "shape": [6, 5]},
                {"name": "b", "shape": [6]},
                {"name": "s", "shape": [1]},
            ],
        )
        keys.setdefault("buckets", [[2, 0], [1]])
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(keys))
        return load_case(path)

    def run_case(self, via: str = "reducer", **keys: Any) -> tuple[int, Path]:
        out = self.root / f"out-{len(list(self.root.iterdir()))}"
        return oracle.run_case(self.case(**keys), via, out), out

    def floats(self, out: Path, name: str) -> list[float]:
        data = (out / name).read_bytes()
        return list(struct.unpack(f"<{len(data) // 4}f", data))

    def test_allreduce_is_the_mean_bit_for_bit(self) -> None:
        """Halving and one addition are exact enough to be predicted on two ranks."""
        for via in RUNNERS:
            with self.subTest(via=via):
                code, out = self.run_case(via, hook=f"{HOOKS}.default_hooks:allreduce_hook")
                self.assertEqual(code, 0)
                for step in range(3):
                    a = torch.tensor(self.floats(out, f"in.rank0.step{step}.bin"))
                    b = torch.tensor(self.floats(out, f"in.rank1.step{step}.bin"))
                    self.assertFalse(torch.equal(a, b))
                    for rank in range(2):
                        got = self.floats(out, f"out.rank{rank}.step{step}.bin")
                        self.assertEqual(got, (a / 2 + b / 2).tolist())

    def test_noop_leaves_the_gradients(self) -> None:
        code, out = self.run_case(hook=f"{HOOKS}.debugging_hooks:noop_hook")
        self.assertEqual(code, 0)
        for rank in range(2):
            self.assertEqual(
                (out / f"in.rank{rank}.step2.bin").read_bytes(),
                (out / f"out.rank{rank}.step2.bin").read_bytes(),
            )

    def test_the_layout_is_the_cases_in_every_step(self) -> None:
        """The Reducer would rebuild its buckets after the first step if it were asked to."""
        code, out = self.run_case(hook=f"{HOOKS}.default_hooks:allreduce_hook", steps=4)
        self.assertEqual(code, 0)
        want = [
            {"index": 0, "numel": 31, "is_last": False, "params": [2, 0]},
            {"index": 1, "numel": 6, "is_last": True, "params": [1]},
        ]
        self.assertEqual(json.loads((out / "meta.json").read_text())["buckets"], [want] * 4)

    def test_runs_are_repeatable(self) -> None:
        """PowerSGD with state over steps: twice the same bytes, and others for another seed."""
        keys: dict[str, Any] = {
            "hook": f"{HOOKS}.powerSGD_hook:powerSGD_hook",
            "state": {
                "class": f"{HOOKS}.powerSGD_hook:PowerSGDState",
                "kwargs": {"start_powerSGD_iter": 2},
            },
            "params": [{"name": "w", "shape": [32, 24]}, {"name": "b", "shape": [9]}],
            "buckets": [[1], [0]],
            "serial": True,
            "steps": 5,
        }
        (code, a), (code2, b), (code3, c) = (
            self.run_case(**keys),
            self.run_case(**keys),
            self.run_case(**keys, seed=2),
        )
        self.assertEqual((code, code2, code3), (0, 0, 0))
        last = "out.rank1.step4.bin"
        self.assertEqual((a / last).read_bytes(), (b / last).read_bytes())
        self.assertNotEqual((a / last).read_bytes(), (c / last).read_bytes())
        self.assertEqual((a / last).read_bytes(), (a / "out.rank0.step4.bin").read_bytes())

    def test_optimizer_mode_steps_the_parameters(self) -> None:
        """Plain SGD by hand from the dumped initial values and the dumped gradients."""
        code, out = self.run_case(
            mode="optimizer",
            hook=f"{HOOKS}.optimizer_overlap_hooks:_hook_then_optimizer"
            f"({HOOKS}.default_hooks:allreduce_hook)",
            optimizer={"class": "torch.distributed.optim:_FunctionalSGD", "kwargs": {"lr": 0.5}},
            steps=2,
        )
        self.assertEqual(code, 0)
        want = torch.tensor(self.floats(out, "initial.bin"))
        for step in range(2):
            want = want - 0.5 * torch.tensor(self.floats(out, f"out.rank0.step{step}.bin"))
            got = torch.tensor(self.floats(out, f"params.rank1.step{step}.bin"))
            self.assertTrue(torch.equal(got, want))

    def failure(self, hook: str, **keys: Any) -> dict[str, Any]:
        began = time.monotonic()
        code, out = self.run_case(hook=f"selftest:{hook}", **keys)
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual(code, oracle.EXIT_UPSTREAM)
        self.assertFalse((out / "meta.json").exists())
        return json.loads((out / "error.json").read_text())

    def test_upstream_failures_differ(self) -> None:
        error = self.failure("raising_hook")
        self.assertEqual(error["stage"], "step 0")
        self.assertIn("boom in bucket 0", error["message"])
        self.assertEqual(self.failure("hanging_hook", timeout_s=6)["type"], "Timeout")
        error = self.failure("crashing_hook", timeout_s=20)
        self.assertEqual(error["type"], "Crash")
        self.assertIn("SIGABRT", error["message"])
        error = self.failure("no_such_hook")
        self.assertEqual((error["stage"], error["type"]), ("import", "AttributeError"))

    def test_bad_cases_are_the_oracles_fault(self) -> None:
        bad: list[dict[str, Any]] = [
            {"stats": None},
            {"buckets": [[0, 1]]},
            {"mode": "?"},
            {"params": []},
        ]
        for keys in bad:
            with self.subTest(keys=keys), self.assertRaises(OracleError):
                self.case(**keys)
        code, _ = self.run_case(hook="no colon")
        self.assertEqual(code, oracle.EXIT_BAD_CASE)

    def test_every_case_file_loads_and_is_listed_right(self) -> None:
        names = set()
        for path in (HERE / "cases").glob("*.json"):
            names.add(load_case(path)["name"])
        listed = json.loads((HERE / "upstream_failures.json").read_text())
        self.assertLessEqual(set(listed), names)

    def test_command_line(self) -> None:
        """The way the Go tests call it."""
        self.case("cli", hook=f"{HOOKS}.default_hooks:allreduce_hook", steps=1)
        done = subprocess.run(
            [sys.executable, HERE / "oracle.py", self.root / "cli.json", self.root / "cli"],
            check=False,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0)
        self.assertTrue((self.root / "cli" / "out.rank1.step0.bin").exists())


if __name__ == "__main__":
    # Forked ranks import the hooks above as "selftest".
    sys.path.insert(0, str(HERE))
    sys.modules["selftest"] = sys.modules["__main__"]
    unittest.main(verbosity=2)
