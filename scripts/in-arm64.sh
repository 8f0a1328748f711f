#!/usr/bin/env bash
# Run a command in a folder that holds an arm64 system, in an emulator. The emulator is registered
# in a user namespace of its own: nothing of the machine's settings changes, and all that was
# started ends with this script. Needs root and Linux 6.7, where each namespace has its binfmt_misc.
#
# usage: in-arm64.sh FOLDER COMMAND...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

command -v qemu-aarch64-static >/dev/null ||
	die "qemu-aarch64-static is not on PATH; on Debian: apt-get install qemu-user-static"
[[ $(id -u) -eq 0 ]] || die "needs root"

ready=$(mktemp -u)
mkfifo "$ready"
trap 'rm -f "$ready"' EXIT
# shellcheck disable=SC2016  # the variables are those of the shell inside
unshare --user --mount --pid --fork --kill-child bash -euc '
read -r _ <"$1"
folder=$2
shift 2
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc ||
	{ echo "binfmt_misc cannot be mounted in a user namespace: this needs Linux 6.7" >&2; exit 1; }
magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
# F: the kernel opens the emulator now, so that it need not be inside.
printf "%s" ":arm64:M::$magic:$mask:$(command -v qemu-aarch64-static):OCF" >/proc/sys/fs/binfmt_misc/register
mount -t proc proc "$folder/proc"
# A device cannot be made in a user namespace; those of the machine are shown.
for device in null zero random urandom; do
	touch "$folder/dev/$device"
	mount --bind "/dev/$device" "$folder/dev/$device"
done
exec chroot "$folder" "$@"
' in-arm64 "$ready" "$@" &
inside=$!
trap 'kill -KILL $inside 2>/dev/null || true; rm -f "$ready"' EXIT
until [[ $(readlink "/proc/$inside/ns/user") != "$(readlink /proc/self/ns/user)" ]]; do
	kill -0 $inside && sleep 0.05
done
echo '0 0 65536' >"/proc/$inside/uid_map"
echo '0 0 65536' >"/proc/$inside/gid_map"
echo >"$ready"
status=0
wait $inside || status=$?
exit $status
