#!/usr/bin/env bash
# Make a folder with Debian 12 for arm64, Python and torch in it, and print it. It is kept in the
# cache (2 GB). The packages are unpacked and not configured: that would take the emulator an hour,
# and Python needs none of it. Needs root, debootstrap and qemu-user-static.
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
	for package in "$folder"/var/cache/apt/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$folder"
	done
	# What the packages' alternatives would set.
	for library in blas lapack; do
		ln -sf "$library/lib$library.so.3" "$folder/usr/lib/aarch64-linux-gnu/lib$library.so.3"
	done
	: >"$folder/complete"
fi
printf '%s\n' "$folder"
