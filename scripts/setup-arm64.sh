#!/usr/bin/env bash
# Make a folder with Debian 12 for arm64, Python and torch in it, and print it. It is kept in the
# cache (2 GB); the emulator takes a long time for it. Needs root, debootstrap and qemu-user-static.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

folder=$cache/arm64-bookworm
if [[ ! -e $folder/complete ]]; then
	for program in debootstrap qemu-aarch64-static; do
		command -v "$program" >/dev/null || die "no $program; on Debian: apt-get install debootstrap qemu-user-static"
	done
	rm -rf --one-file-system "$folder"
	mkdir -p "$folder"
	say "Debian 12 for arm64 with python3-torch into $folder"
	debootstrap --arch=arm64 --foreign --variant=minbase --include=python3-torch,python3-numpy,libpython3.11 \
		bookworm "$folder" >&2
	# container: a user namespace makes no devices, and debootstrap asks for none in an lxc.
	container=lxc "$scripts/in-arm64.sh" "$folder" /debootstrap/debootstrap --second-stage >&2
	: >"$folder/complete"
fi
printf '%s\n' "$folder"
