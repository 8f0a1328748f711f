# shellcheck shell=bash
# Shared by the scripts here: where things are kept, and how they speak.
# Messages go to stderr, so that stdout carries only the answer.

# shellcheck disable=SC2034  # used by the scripts that source this file
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
scripts="$root/scripts"
cache=${PYHOOK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pyhook}

say() { printf '%s: %s\n' "$(basename -- "$0" .sh)" "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

# key TEXT prints a short name for a cache entry made from TEXT.
key() { printf '%s' "$*" | cksum | tr -s ' \t' '-'; }

# as_root prints the prefix that makes a command run as root, or fails.
as_root() {
	if [[ $(id -u) -eq 0 ]]; then
		echo env
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		echo "sudo -n env"
	else
		return 1
	fi
}
