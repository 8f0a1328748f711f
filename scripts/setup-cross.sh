#!/usr/bin/env bash
# Make sure there is a C compiler for each architecture given (amd64, arm64), and print them, one
# a line. One that is missing is installed from Debian's packages, as root or with a sudo that
# asks nothing.
#
# usage: setup-cross.sh ARCH...
# PYHOOK_NO_APT=1  do not install system packages
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# compiler ARCH sets $cc to its C compiler and $packages to what holds it.
compiler() {
	case $1 in
	amd64) cc=x86_64-linux-gnu-gcc packages=(gcc-x86-64-linux-gnu libc6-dev-amd64-cross) ;;
	arm64) cc=aarch64-linux-gnu-gcc packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross) ;;
	*) die "$1: releases are for amd64 and arm64" ;;
	esac
	if [[ $1 == "$(go env GOHOSTARCH)" ]]; then
		cc=$(go env CC) packages=(build-essential)
	fi
}

works() {
	printf '#include <dlfcn.h>\nint main(void) { return 0; }\n' | "$cc" -x c - -o /dev/null 2>/dev/null
}

for arch in "$@"; do
	compiler "$arch"
	works || apt_install "${packages[@]}" || true
	works || die "no C compiler for $arch: $cc does not work; on Debian: apt-get install ${packages[*]}"
	printf '%s\n' "$cc"
done
