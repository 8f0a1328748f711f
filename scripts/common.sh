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

# apt_install PACKAGE... installs Debian's packages, as root or with a sudo that asks nothing. It fails
# where that cannot be done, or by PYHOOK_NO_APT may not.
apt_install() {
	local sudo=()
	[[ -z ${PYHOOK_NO_APT:-} && -e /etc/debian_version ]] || return 1
	if [[ $(id -u) -ne 0 ]]; then
		sudo=(sudo -n)
		command -v sudo >/dev/null && sudo -n true 2>/dev/null || {
			say "not root and no passwordless sudo: leaving the system packages alone"
			return 1
		}
	fi
	say "apt-get install $*"
	local apt=(${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
	"${apt[@]}" update >&2 && "${apt[@]}" install -y --no-install-recommends "$@" >&2
}
