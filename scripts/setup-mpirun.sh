#!/usr/bin/env bash
# Install Debian's Open MPI if there is no mpirun and this may be done (as root or with a sudo that
# asks nothing; not with PYHOOK_NO_APT=1). Without it one test of tests/launchers is left out, or
# fails in CI: so this says what is missing, and succeeds.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

command -v mpirun >/dev/null && exit
apt_install openmpi-bin && exit
say "no mpirun: a test of tests/launchers is left out (on Debian: apt-get install openmpi-bin)"
