"""Decision 0002. What PyTorch's own hook modules ask of a Python engine.

    python hook_features.py       with any Python that has torch; torch itself is not imported

Counts, for each module of torch.distributed.algorithms.ddp_comm_hooks, the syntax that came after
Python 3.4 and the imports, and lists the C extensions that `import torch` loads.
"""

import ast
import importlib.machinery
import importlib.util
import io
import pathlib
import re
import tokenize
from collections import Counter
from importlib import metadata


def scan(source: str) -> tuple[Counter[str], set[str]]:
    """Counts of syntax newer than 3.4, and the top-level names imported."""
    counts: Counter[str] = Counter()
    imports: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            counts["f-string"] += 1
        elif isinstance(node, ast.AnnAssign):
            counts["var annotation"] += 1
        elif isinstance(node, (ast.AsyncFunctionDef, ast.Await)):
            counts["async"] += 1
        elif isinstance(node, ast.NamedExpr):
            counts["walrus"] += 1
        elif isinstance(node, ast.Import):
            imports |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports.add(node.module.split(".")[0] if node.module and not node.level else ".")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NUMBER and "_" in token.string:
            counts["1_000"] += 1
    return counts, imports


def main() -> None:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("this Python has no torch")
    torch = pathlib.Path(spec.origin).parent
    columns = ["f-string", "var annotation", "1_000", "async", "walrus"]
    print("torch", metadata.version("torch"))
    print(f"{'module':28}", *(f"{c:>14}" for c in columns), " imports")
    for path in sorted((torch / "distributed/algorithms/ddp_comm_hooks").glob("*.py")):
        counts, imports = scan(path.read_text())
        numbers = (f"{counts[c]:14}" for c in columns)
        print(f"{path.name:28}", *numbers, "", " ".join(sorted(imports)))

    suffix = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    extensions = sorted(p.name.split(".")[0] for p in torch.glob("*") if p.name.endswith(suffix))
    init = (torch / "__init__.py").read_text()
    counts, _ = scan(init)
    imports_c = re.findall(r"^ *from torch\._C\b", init, re.MULTILINE)
    print("\ntorch/__init__.py:", ", ".join(f"{n} {c}" for c, n in sorted(counts.items())))
    print("its lines that import from torch._C:", len(imports_c))
    print("C extensions in torch/:", *extensions)


if __name__ == "__main__":
    main()
