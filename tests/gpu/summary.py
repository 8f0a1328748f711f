"""Put what run.sh's parts printed into one results.json, and print a table of it.

summary.py FOLDER: exit status 1 if a part or a test failed.
"""

import importlib.metadata
import json
import os
import re
import sys


def main() -> int:
    folder = sys.argv[1]
    results = {
        "card": read(folder, "card.txt").strip(),
        "torch": torch_version(),
        "parts": parts(read(folder, "parts.txt")),
        "tests": tests(read(folder, "hooks.log") + read(folder, "ddp.log")),
        "hook_calls": rows(folder, "summary.json"),
        "steps": rows(folder, "ddp-cuda0.json"),
    }
    with open(os.path.join(folder, "results.json"), "w") as f:
        json.dump(results, f, indent=2)
        f.write("\n")
    print(f"{results['card']}; torch {results['torch']}\n")
    for name, part in results["parts"].items():
        verdict = "ok" if part["status"] == 0 else f"FAILED ({part['status']}): {name}.log"
        print(f"{name:<12} {part['seconds']:>4} s  {verdict}")
    outcomes = list(results["tests"].values())
    counts = {kind: outcomes.count(kind) for kind in ("PASS", "FAIL", "SKIP")}
    print(
        f"tests        {counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped"
    )
    for name, outcome in results["tests"].items():
        if outcome == "FAIL":
            print(f"  FAIL {name}")
    for row in results["steps"]:
        print(f"{row['case']:<20} {row['ratio']:.2f} times stock DDP's step")
    print(f"\n{read(folder, 'bench.log').strip()}\n\n{os.path.join(folder, 'results.json')}")
    bad = any(part["status"] for part in results["parts"].values()) or counts["FAIL"]
    return 1 if bad or not counts["PASS"] else 0


def read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name)) as f:
            return f.read()
    except FileNotFoundError:
        return ""


def torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError as error:
        return str(error)


def parts(text: str) -> "dict[str, dict[str, int]]":
    found = {}
    for line in text.splitlines():
        name, status, seconds = line.split()
        found[name] = {"status": int(status), "seconds": int(seconds)}
    return found


def tests(text: str) -> "dict[str, str]":
    """The outcomes of go test -v, by the tests' names."""
    return {name: kind for kind, name in re.findall(r"--- (PASS|FAIL|SKIP): (\S+)", text)}


def rows(folder: str, name: str) -> list:
    text = read(folder, name)
    return json.loads(text) if text else []


if __name__ == "__main__":
    sys.exit(main())
