#!/usr/bin/env bash
# Make sure there is a Python with torch, numpy and a shared libpython, and print its path as the
# only line on stdout. Takes the one find-python.sh finds; if there is none, installs Debian's
# packages (as root or with a sudo that asks nothing), else makes an environment in the cache.
#
# PYHOOK_PYTHON       use this interpreter; an error if it cannot be used
# PYHOOK_NO_APT=1     do not install system packages
# PYHOOK_TORCH_INDEX  the index torch is installed from, e.g. https://download.pytorch.org/whl/cpu
# PYHOOK_CACHE        where the environment is kept (default ~/.cache/pyhook)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

find_and_exit() {
	local status=0 found
	found=$("$scripts/find-python.sh") || status=$?
	case $status in
	0)
		printf '%s\n' "$found"
		exit 0
		;;
	2) exit 2 ;;
	esac
}

install_packages() {
	local version
	apt_install python3 python3-torch python3-numpy python3-venv || return 1 # a few hundred MB
	version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || return 1
	apt_install "libpython$version"
}

# base_python prints an interpreter that an environment can be made from.
base_python() {
	local python line
	for python in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9; do
		command -v "$python" >/dev/null || continue
		line=$("$python" "$scripts/probe_python.py" base 2>/dev/null) || {
			say "cannot build on $python: ${line:-it cannot be run}"
			continue
		}
		python=$(cut -f2 <<<"$line")
		"$python" -c 'import venv, ensurepip' 2>/dev/null || {
			say "cannot build on $python: no venv module (on Debian: python3-venv)"
			continue
		}
		printf '%s\n' "$python"
		return
	done
	return 1
}

make_environment() {
	local base index=()
	local venv=$cache/venv
	base=$(base_python) || die "no Python 3.9 or newer with a shared libpython and venv was found." \
		"Install one (on Debian: apt-get install python3-torch python3-numpy libpython3.x), or set PYHOOK_PYTHON."
	mkdir -p "$cache"
	if command -v flock >/dev/null; then # two runs at once: the second waits, then finds it made
		exec 9>"$cache/venv.lock"
		flock 9
		find_and_exit 2>/dev/null
	fi
	say "making $venv from $base"
	"$venv/bin/python" -c '' 2>/dev/null || "$base" -m venv --clear "$venv" >&2
	if [[ -n ${PYHOOK_TORCH_INDEX:-} ]]; then
		index=(--index-url "$PYHOOK_TORCH_INDEX")
		say "installing torch from $PYHOOK_TORCH_INDEX"
	else
		say "installing torch: pip's default on Linux is the CUDA build, several GB." \
			"For the small one: PYHOOK_TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	fi
	"$venv/bin/python" -m pip install --disable-pip-version-check ${index[@]+"${index[@]}"} torch >&2
	"$venv/bin/python" -m pip install --disable-pip-version-check numpy >&2
}

find_and_exit
if install_packages; then
	find_and_exit
else
	say "system packages not installed; making an environment instead"
fi
make_environment
find_and_exit
die "the new interpreter cannot be used; the reason is above"
