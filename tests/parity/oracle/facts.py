#!/usr/bin/env python3
"""Which shipped hooks can PyTorch itself run here, and do the upstream_*.json still say so?

    facts.py OUTROOT [CASE...]            run every case three ways, print a table and rows.json
    facts.py --check OUTROOT [CASE...]    also exit 1 where the two upstream_*.json are wrong

The three ways are the Reducer (what the parity tests compare with), DistributedDataParallel
(which has checks of its own at registration) and a direct call on a bucket made in Python.
Where the Reducer and the direct call both work, their results must be bitwise equal: that is
what makes a hook host without a Reducer, such as pyhook, possible at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Optional

import oracle
from oracle_case import DDP_MODES, load_case
from oracle_torch import torch

HERE = Path(__file__).resolve().parent
WAYS = ("reducer", "ddp", "direct")


def expected(failures: dict[str, Any], case: str, version: str) -> Optional[str]:
    """The listed error for this torch: an exact version beats its major.minor; None: must run.

    An empty string means: fails, but not with the same words each time.
    """
    row = failures.get(case, {})
    for key in (version, ".".join(version.split(".")[:2])):
        if key in row:
            return row[key]
    return None


def outcome(code: int, out: Path) -> dict[str, Any]:
    """What one run came to."""
    if code == oracle.EXIT_OK:
        return {"ok": True}
    if not (out / "error.json").exists():
        return {"ok": False, "oracle": True, "stage": "?", "type": "?", "message": "?"}
    error = json.loads((out / "error.json").read_text())
    row = {k: error[k] for k in ("stage", "type", "message")}
    return {"ok": False, "oracle": code == oracle.EXIT_BAD_CASE, **row}


def same_results(case: dict[str, Any], a: Path, b: Path) -> bool:
    """Bitwise comparison of two runs."""
    names = [f"out.rank{r}.step{s}.bin" for r in range(case["world"]) for s in range(case["steps"])]
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


def run_all(paths: list[Path], root: Path) -> list[dict[str, Any]]:
    """Every case by every way that makes sense for it."""
    rows = []
    for path in paths:
        case = load_case(path)
        row: dict[str, Any] = {"case": case["name"], "torch": torch.__version__}
        hook = case["hook"]
        python_hook = hook is not None and not hook.startswith("builtin:")
        for way in WAYS:
            needs_ddp = case["mode"] in DDP_MODES
            if (way == "direct" and not python_hook) or (needs_ddp and way != "ddp"):
                continue
            out = root / way / case["name"]
            row[way] = outcome(oracle.run_case(case, way, out), out)
        if all(row.get(w, {}).get("ok") for w in ("reducer", "direct")):
            row["direct_equals_reducer"] = same_results(
                case, root / "reducer" / case["name"], root / "direct" / case["name"]
            )
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    cells = []
    for way in WAYS:
        got = row.get(way)
        if got is None:
            cells.append("-")
        elif got["ok"]:
            cells.append("runs")
        else:
            text = " ".join(got["message"].split())
            cells.append(f"FAILS {got['stage']}: {got['type']}: {text[:230]}")
    equal = row.get("direct_equals_reducer")
    cells.append({None: "-", True: "bitwise", False: "DIFFERENT"}[equal])
    return f"| {row['case']} | " + " | ".join(cells) + " |"


def judge(
    rows: list[dict[str, Any]], failures: dict[str, Any], silent: dict[str, Any]
) -> list[str]:
    """Where the lists and PyTorch disagree."""
    wrong = []
    for row in rows:
        got = row.get("reducer") or row["ddp"]
        want = expected(failures, row["case"], row["torch"])
        if got.get("oracle"):
            wrong.append(f"{row['case']}: oracle at fault: {got['message']}")
        elif want is None and not got["ok"]:
            wrong.append(f"{row['case']}: unlisted failure: {got['type']}: {got['message'][:300]}")
        elif want is not None and got["ok"]:
            wrong.append(f"{row['case']}: runs, but is listed as failing with {want!r}")
        elif want is not None and want not in f"{got['type']}: {got['message']}":
            wrong.append(f"{row['case']}: fails with {got['message'][:300]!r}, listed {want!r}")
        equal = row.get("direct_equals_reducer")
        known = expected(silent, row["case"], row["torch"]) is not None
        if equal is not None and equal == known:
            verb = "differs from" if known is False else "is listed as differing from, but equals,"
            wrong.append(f"{row['case']}: a direct call {verb} the Reducer")
    unknown = (set(failures) | set(silent)) - {p.stem for p in (HERE / "cases").glob("*.json")}
    return wrong + [f"{name}: listed, but there is no such case" for name in sorted(unknown)]


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("root", type=Path)
    parser.add_argument("cases", nargs="*", type=Path)
    args = parser.parse_args()
    paths = args.cases or sorted((HERE / "cases").glob("*.json"))
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")
    print("| case | Reducer | DDP | direct call | direct = Reducer |\n|---|---|---|---|---|")
    rows = run_all(paths, args.root)
    (args.root / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    if not args.check:
        return 0
    failures = json.loads((HERE / "upstream_failures.json").read_text())
    silent = json.loads((HERE / "upstream_silently_wrong.json").read_text())
    wrong = judge(rows, failures, silent)
    print("\n".join(wrong) or "both lists agree with this torch")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
