#!/usr/bin/env bash
# Run the GPU's tests, and the benchmark of hook calls on the GPU's memory beside torch's own C++ class.
#
# usage: run.sh [GO TEST ARGUMENT...]
# PYHOOK_PYTHON=/path/to/python  an interpreter whose torch has CUDA (else it is looked for)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/../../scripts source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/common.sh"
cd "$root"

command -v nvidia-smi >/dev/null &&
	nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader ||
	die "nvidia-smi finds no GPU: these tests are for a machine that has one"
"$scripts/check-build.sh"
PYHOOK_PYTHON=$("$scripts/setup-python.sh")
export PYHOOK_PYTHON PYHOOK_TEST_GPU=1
go test -count=1 -v "$@" ./tests/gpu
go run -buildvcs=false ./tests/bench -gpu -run '^(noop|allreduce|fp16|powersgd)/(4KiB|25MiB)/(1|64)/gpu$'
