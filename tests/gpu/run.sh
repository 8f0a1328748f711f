#!/usr/bin/env bash
# Run all that wants an NVIDIA GPU: tests/gpu, ddp beside PyTorch's Reducer on the card, and the
# benchmarks beside torch's own C++ class and stock DDP. A table and one results.json come of it, in 8
# minutes at most.
#
# usage: run.sh                on the machine with the card
#        run.sh bundle FOLDER  on any: put what that machine needs into FOLDER. It then wants neither Go
#                              nor a network, but a Python whose torch has CUDA; the benchmark of hook
#                              calls also g++. There: FOLDER/tests/gpu/run.sh
# PYHOOK_PYTHON=/path/to/python  the interpreter (else it is looked for)
# OUT=out/gpu                    the folder of results.json and of each part's output
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/../../scripts source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/common.sh"
cd "$root"

# build FOLDER: the programs.
build() {
	"$scripts/check-build.sh"
	go test -c -vet=off -ldflags=-w -o "$1/gpu.test" ./tests/gpu
	go test -c -vet=off -ldflags=-w -o "$1/simdevice.test" ./tests/simdevice
	go build -buildvcs=false -ldflags=-w -o "$1/bench" ./tests/bench
	go build -buildvcs=false -ldflags=-w -o "$1/bench-ddp" ./tests/bench/ddp
}

if [[ ${1:-} == bundle ]]; then
	[[ $# -eq 2 ]] || die "usage: run.sh bundle FOLDER"
	mkdir -p "$2"
	build "$2/bin"
	cp -R --parents scripts/*.sh scripts/*.py tests/gpu tests/simdevice/testdata tests/bench/ddp/stock.py "$2"
	say "copy $2 to the machine with the GPU, and run tests/gpu/run.sh in it there"
	exit
fi

command -v nvidia-smi >/dev/null &&
	card=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader) ||
	die "nvidia-smi finds no GPU: these tests are for a machine that has one"
PYHOOK_PYTHON=$("$scripts/find-python.sh")
export PYHOOK_PYTHON PYHOOK_TEST_GPU=1 GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1

out=$(realpath -m "${OUT:-out/gpu}")
mkdir -p "$out"
bin=$root/bin
if [[ ! -x $bin/gpu.test ]]; then
	bin=$out/bin
	build "$bin"
fi
printf '%s\n' "$card" | tee "$out/card.txt"
: >"$out/parts.txt"

# part NAME FOLDER COMMAND...: run it there for two minutes at most, and note how it ended.
part() {
	local name=$1 folder=$2 status=0 start=$SECONDS
	shift 2
	say "$name"
	(cd "$folder" && timeout 120 "$@") >"$out/$name.log" 2>&1 || status=$?
	echo "$name $status $((SECONDS - start))" >>"$out/parts.txt"
}
part hooks tests/gpu "$bin/gpu.test" -test.v -test.skip TestRun
part ddp tests/simdevice "$bin/simdevice.test" -test.v -test.run TestReducer_cuda
part bench . "$bin/bench" -gpu -out "$out" -run '^(noop|allreduce|fp16|powersgd)/(4KiB|25MiB)/(1|64)/gpu$'
part bench-ddp . "$bin/bench-ddp" -device cuda:0 -n 1 -out "$out" -run '^(none|allreduce|fp16)/'
"$PYHOOK_PYTHON" tests/gpu/summary.py "$out"
