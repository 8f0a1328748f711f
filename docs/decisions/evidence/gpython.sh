#!/usr/bin/env bash
# Decision 0002. Builds gpython, then gives it PyTorch's own hook modules and some small programs.
#
# usage: gpython.sh [PYTHON]      a Python that has torch; default: python3
set -euo pipefail

module=github.com/go-python/gpython
version=v0.2.0
python=${1:-python3}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
torch=$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").origin))')
cd "$work"
go mod init evidence 2>/dev/null
{ go get "$module@$version" && go build -o gpython "$module"; } 2>log || {
	cat log
	echo "cannot download or build $module@$version; nothing tried"
	exit 1
}

# ask FILE: run it and print "runs", or where and how it fails.
ask() {
	local out
	if out=$(timeout 60 "$work/gpython" "$1" 2>&1) && ! grep -qE 'Error:' <<<"$out"; then
		echo "runs"
		return
	fi
	printf '%s\n' "$out" | awk '
		/^  File/ { file = $2; gsub(/[",]/, "", file); n = split(file, part, "/"); file = n > 1 ? part[n - 1] "/" part[n] : file; line = $4; sub(",", "", line); code = ""; next }
		/Error/   { error = $0; next }
		NF && file && code == "" && !/traceback/ { code = $0; sub(/^ +/, "", code) }
		END { printf "%s", error; if (file) printf "  at %s:%s", file, line; if (code && error ~ /Syntax/) printf "  %s", code; print "" }'
}

echo "$module@$version"
printf '\nThe hook modules of torch %s\n' "$("$python" -c 'from importlib import metadata; print(metadata.version("torch"))')"
cd "$torch/distributed/algorithms/ddp_comm_hooks"
for file in *.py; do
	printf '  %-28s %s\n' "$file" "$(ask "$file")"
done

printf '\ntorch itself\n'
cd "$torch"
printf '  %-28s %s\n' "torch/__init__.py" "$(ask __init__.py)"
mkdir "$work/ext" && cd "$work/ext"
ln -s "$torch"/_C.*.so .
printf 'import _C\n' >ext.py
printf '  %-28s %s\n' "import _C (C extension)" "$(ask ext.py)"

printf '\nSmall programs\n'
cd "$work"
while IFS='|' read -r name code; do
	printf '%b\n' "$code" >case.py
	printf '  %-28s %s\n' "$name" "$(ask case.py)"
done <<'EOF'
keyword-only parameter|def f(x, *, y=2):\n    return x + y\nassert f(1) == 3
closure over a local|def f(x):\n    z = x\n    return lambda: z\nassert f(1)() == 1
closure over a parameter|def f(x):\n    return lambda: x\nassert f(1)() == 1
parameter annotations|def f(x: int) -> int:\n    return x\nassert f(1) == 1
try, with, generators|def g():\n    yield 1\ntry:\n    raise ValueError("x")\nexcept ValueError:\n    pass\nassert list(g()) == [1]
f-string|print(f"{1}")
variable annotation|x: int = 1
digits with underscore|x = 1_000
async def|async def f():\n    pass
str.format|"{}".format(1)
super()|class A:\n    def __init__(self):\n        super().__init__()\nA()
dict with int keys|d = {1: 2}
property|class A:\n    @property\n    def x(self):\n        return 1\nassert A().x == 1
import math|import math\nmath.sqrt(2.0)
import typing|import typing
import functools|import functools
import collections|import collections
import logging|import logging
import numpy|import numpy
EOF
