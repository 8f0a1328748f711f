#!/usr/bin/env bash
# Print the path of a Python interpreter that pyhook can use: 3.9 or newer, with torch
# (torch.distributed included), numpy and a shared libpython. What was tried goes to stderr.
#
# Order: $PYHOOK_PYTHON, $VIRTUAL_ENV, $CONDA_PREFIX, python3 on PATH, /usr/bin/python3,
# then the environment that setup-python.sh keeps in the cache.
#
# Exit status: 0 found; 1 none found; 2 $PYHOOK_PYTHON is set and cannot be used.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# probe PYTHON: sets $answer to the interpreter, or to the reason for refusing it.
# Importing torch takes seconds, so a good answer is kept until torch, numpy or libpython change.
probe() {
	local python=$1 line mark
	answer="there is no such file"
	if [[ $python != */* ]]; then
		answer="it is not on PATH"
		python=$(command -v -- "$python") || return 1
	fi
	[[ -e $python ]] || return 1
	answer="it cannot be run"
	[[ -x $python && ! -d $python ]] || return 1
	line=$("$python" "$scripts/probe_python.py" quick 2>/dev/null) || {
		answer=${line:-$answer}
		return 1
	}
	mark=$cache/probe/$(key "$line")
	if [[ ! -e $mark ]]; then
		line=$("$python" "$scripts/probe_python.py" full 2>/dev/null) || {
			answer=${line:-"it died while importing torch"}
			return 1
		}
		{ mkdir -p "$cache/probe" && : >"$mark"; } 2>/dev/null || true
	fi
	answer=$(cut -f2 <<<"$line")
}

# try NAME PYTHON: print the interpreter and end if it will do.
try() {
	if probe "$2"; then
		say "using $answer ($1)"
		printf '%s\n' "$answer"
		exit 0
	fi
	say "not $2 ($1): $answer"
}

if [[ -n ${PYHOOK_PYTHON:-} ]]; then
	try 'PYHOOK_PYTHON' "$PYHOOK_PYTHON"
	say "error: PYHOOK_PYTHON names an interpreter that cannot be used; fix it, or unset it to let one be found"
	exit 2
fi
[[ -n ${VIRTUAL_ENV:-} ]] && try 'VIRTUAL_ENV' "$VIRTUAL_ENV/bin/python"
[[ -n ${CONDA_PREFIX:-} ]] && try 'CONDA_PREFIX' "$CONDA_PREFIX/bin/python"
try 'on PATH' python3
try 'system' /usr/bin/python3
try 'cached environment' "$cache/venv/bin/python"
say "no usable interpreter found; scripts/setup-python.sh can make one"
exit 1
