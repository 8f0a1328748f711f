#!/usr/bin/env bash
# Install Debian's Open MPI if there is no mpirun and this may be done (as root or with a sudo that
# asks nothing; not with PYHOOK_NO_APT=1). Without it one test of tests/launchers is left out, or
# fails in CI: so this says what is missing, and succeeds.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

command -v mpirun >/dev/null && exit
if [[ -z ${PYHOOK_NO_APT:-} && -e /etc/debian_version ]] && prefix=$(as_root); then
	say "apt-get install openmpi-bin"
	read -ra apt <<<"$prefix DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300"
	"${apt[@]}" update -qq >&2 && "${apt[@]}" install -y -qq --no-install-recommends openmpi-bin >&2 && exit
fi
say "no mpirun: a test of tests/launchers is left out (on Debian: apt-get install openmpi-bin)"
