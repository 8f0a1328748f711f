#!/usr/bin/env bash
# Make one of the environments that `make matrix` runs the tests in, unless it is there, and print
# "ROOT<TAB>PYTHON" as the only line on stdout: a root to chroot into (/ is this machine) and an
# interpreter in it. Exit status 3: it cannot be had here; the reason is the last line on stderr.
#
# usage: setup-matrix.sh NAME
#   bookworm, trixie, sid  Debian with its own python3-torch, by debootstrap
#   pip                    a virtual environment with the newest torch of PyPI
#   3.9 ... 3.15           CPython alone: from PATH, from pyenv, or from Debian sid
#
# PYHOOK_CACHE          where the environments are kept (default ~/.cache/pyhook); 3 GB each and more
# PYHOOK_MATRIX_PYTHON  for pip: use this interpreter with torch instead of making one
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

mirror=${PYHOOK_DEBIAN_MIRROR:-http://deb.debian.org/debian}

cannot() {
	say "$*"
	exit 3
}

# in_root ROOT COMMAND... runs a command in a root, with a /proc that goes when it ends: one that
# stayed would be in the way of whoever removes the root.
in_root() {
	# shellcheck disable=SC2016  # expanded by the inner shell
	unshare --mount --propagation private /bin/sh -c 'mount -t proc proc "$1/proc" && exec chroot "$@"' sh \
		"$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "${@:2}"
}

root_install() {
	local place=$1
	shift
	# An old copy of sid is as good for this as a new one.
	local apt=(apt-get -qq -o Dpkg::Use-Pty=0 -o Acquire::Check-Valid-Until=false)
	in_root "$place" "${apt[@]}" update >&2
	in_root "$place" "${apt[@]}" install -y --no-install-recommends "$@" >&2
	in_root "$place" apt-get clean >&2
}

# debian SUITE prints the root of that release, made if need be, with apt and nothing else.
debian() {
	local suite=$1 place=$cache/matrix/$1
	[[ $(id -u) -eq 0 ]] || cannot "debootstrap and chroot need root"
	if [[ ! -e $place.made ]]; then
		command -v debootstrap >/dev/null || apt_install debootstrap ||
			cannot "debootstrap is not installed; on Debian: apt-get install debootstrap"
		mkdir -p "$cache/matrix"
		say "debootstrap $suite into $place (some minutes)"
		# Older releases' debootstrap has no script for newer suites, which are all like sid.
		local script=/usr/share/debootstrap/scripts/$suite
		[[ -e $script ]] || script=/usr/share/debootstrap/scripts/sid
		rm -rf --one-file-system "$place"
		debootstrap --variant=minbase "$suite" "$place" "$mirror" "$script" >&2 ||
			cannot "debootstrap $suite failed"
		touch "$place.made"
	fi
	printf '%s\n' "$place"
}

debian_torch() {
	local place version
	place=$(debian "$1")
	if [[ ! -e $place.torch ]]; then
		say "apt-get install python3-torch in $1 (a few hundred MB)"
		root_install "$place" python3-torch python3-numpy python3-venv iproute2 procps ||
			cannot "python3-torch does not install in $1"
		version=$(in_root "$place" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
		root_install "$place" "libpython$version"
		touch "$place.torch"
	fi
	# For recordings; releases before Debian 13 do not have it, and the tests of recordings say so.
	if [[ ! -e $place.safetensors ]]; then
		root_install "$place" python3-safetensors || say "$1 has no python3-safetensors"
		touch "$place.safetensors"
	fi
	printf '%s\t/usr/bin/python3\n' "$place"
}

newest_pip() {
	local venv=$cache/matrix/pip base
	if [[ -n ${PYHOOK_MATRIX_PYTHON:-} ]]; then
		printf '/\t%s\n' "$PYHOOK_MATRIX_PYTHON"
		return
	fi
	if [[ ! -e $venv.made ]]; then
		base=$(plain_python 3.13 || plain_python 3.12 || plain_python 3.11) ||
			cannot "no CPython 3.11 to 3.13 with a shared libpython to build on"
		mkdir -p "$cache/matrix"
		say "installing torch from pip into $venv: the CUDA build, several GB"
		"$base" -m venv --clear "$venv" >&2
		"$venv/bin/python" -m pip install --disable-pip-version-check -q torch numpy >&2 ||
			cannot "pip cannot install torch"
		touch "$venv.made"
	fi
	if [[ ! -e $venv.safetensors ]]; then
		"$venv/bin/python" -m pip install --disable-pip-version-check -q safetensors >&2 ||
			cannot "pip cannot install safetensors"
		touch "$venv.safetensors"
	fi
	printf '/\t%s\n' "$venv/bin/python"
}

# plain_python VERSION prints a CPython of this machine that has a shared libpython.
plain_python() {
	local python line
	for python in "python$1" "/usr/bin/python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
		command -v "$python" >/dev/null || continue
		line=$("$python" "$scripts/probe_python.py" base 2>/dev/null) || continue
		[[ $(basename "$(readlink -f "$python")") == "python$1" ]] || continue # pyenv's shims are of any version
		cut -f2 <<<"$line"
		return
	done
	return 1
}

cpython() {
	local python place
	if python=$(plain_python "$1"); then
		printf '/\t%s\n' "$python"
		return
	fi
	place=$(debian sid)
	in_root "$place" "python$1" -c '' 2>/dev/null || root_install "$place" "python$1" "libpython$1" ||
		cannot "no python$1 on PATH, in pyenv or in Debian sid"
	printf '%s\t/usr/bin/python%s\n' "$place" "$1"
}

case ${1:-} in
bookworm | trixie | sid) debian_torch "$1" ;;
pip) newest_pip ;;
3.*) cpython "$1" ;;
*) die "usage: setup-matrix.sh bookworm | trixie | sid | pip | 3.9 ... 3.15" ;;
esac
