#!/usr/bin/env bash
# Run checks by name, in the order given, and sum up. A failed check does not stop the ones after
# it. `make test` runs those of `all`, `make test-long` and `make test-deep` theirs; docs/testing.md
# says what each finds.
#
# usage: test.sh [all | lint | long | deep | CHECK...]
# FUZZTIME=10m  how long each fuzz target runs; MINUTES=5  how long the soak lasts
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

timeout=${PYHOOK_TEST_TIMEOUT:-30m}

# run shows a command and runs it.
run() {
	printf '$ %s\n' "$*"
	"$@"
}

# ruff COMMAND...: the Python package by its own settings, then all other Python by the same ones.
# testdata is left out: much of it is odd on purpose.
ruff() {
	run "$tools/ruff" "$@" python
	run "$tools/ruff" "$@" --config python/pyproject.toml --extend-exclude python,testdata .
}

# What each check runs, in the root of the clone, with the tools in $tools.

check_fmt() {
	local files
	printf '$ gofmt -l .\n'
	files=$(gofmt -l .)
	[[ -z $files ]] || die "not formatted (make fmt puts it right):"$'\n'"$files"
	ruff format --check
}
check_vet() { run go vet ./...; }
check_staticcheck() { run "$tools/staticcheck" ./...; }
check_ruff() { ruff check; }
check_mypy() { cd python && run "$tools/mypy"; }
check_words() { run "$tools/python" scripts/check_words.py; }

# Comments, messages and docs. spelling.txt has names that codespell takes for mistakes: copyIn.
check_spell() {
	local files
	printf '$ codespell --ignore-words scripts/spelling.txt FILES\n'
	mapfile -d '' files < <(git ls-files -z -co --exclude-standard -- ':!*.sum' ':!*.json' ':!*.gz' ':!*.png' ':!*testdata/*')
	"$tools/codespell" --ignore-words scripts/spelling.txt "${files[@]}"
}
# PYTHONMALLOC=debug: Python ends the process when C asks for memory without the GIL.
check_pytest() { run env PYTHONMALLOC=debug PYTHONPATH="$root/python" "$tools/python" -m pytest python/tests; }
# The adapters to training libraries: modules of their own, so that a trainer without them needs none
# of what they need.
check_adapters() {
	local mod
	printf '$ go list -m all names no training library and no gRPC\n'
	! go list -m all | grep -E 'gomlx|gorgonia|spago|MNIST|grpc' || die "the library's module requires what only an adapter may"
	for mod in adapters/*/go.mod; do
		run go -C "$(dirname "$mod")" vet ./...
		(cd "$(dirname "$mod")" && run "$tools/staticcheck" ./...)
		run env GORACE="atexit_sleep_ms=0 ${GORACE:-}" go -C "$(dirname "$mod")" test -race -count=1 -vet=off -timeout "$timeout" ./...
	done
	# The benchmark of other ways to call a hook is a module too: gRPC is in it.
	run go -C tests/bench/peers vet ./...
	(cd tests/bench/peers && run "$tools/staticcheck" ./...)
	run go -C tests/bench/peers test -count=1 -vet=off -timeout "$timeout" ./...
}
# The manifests of deploy/kubernetes; a module of its own, with Kubernetes in it.
check_kubernetes() {
	cd tests/kubernetes
	run go vet ./...
	run go test -count=1 -vet=off -timeout "$timeout" ./...
}
# The page of pyhook compare --html in a real browser; a module of its own. Chromium is some 400 MB with
# what it needs, so CI does not have it.
check_browser() {
	local browser
	browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
		die "no browser is on PATH; on Debian: apt-get install chromium"
	cd tests/browser
	run go vet ./...
	run env PYHOOK_CHROMIUM="$browser" PYHOOK_SCREENSHOTS="$root/out/browser" go test -count=1 -vet=off -timeout "$timeout" ./...
}
# gotest runs Go's tests. -count=1: Go's test cache does not know of the interpreter that a test
# starts. No vet: that is a check of its own. No debug information: stack traces need none, and
# linking takes less time. Many tests wait more than they compute, so one package more than there are
# cores runs at once; of a check that runs beside others, one.
slots=$(($(nproc) + 1))
gotest() { run go test -count=1 -vet=off -ldflags=-w -timeout "$timeout" -p "$slots" "$@"; }

# one TEST PACKAGE runs one test, which must be there: go test is content with none.
one() {
	local said
	said=$(gotest -v -run "^$1\$" "$2" 2>&1) || { printf '%s\n' "$said"; return 1; }
	printf '%s\n' "$said"
	grep -q -- "^--- PASS: $1 " <<<"$said" || die "$1 of $2 did not run"
}

# What takes longest comes first, so that none of it is left alone at the end.
longest=(./worker ./pyhook ./tests/ddp ./internal/cli/check)
plain=(./internal/demo/lossplot)         # draws, on one goroutine: nothing for the race detector
jobs=(./tests/launchers ./tests/network) # whole jobs, by every launcher and over bad links

check_go() { gotest "${jobs[@]}" "${longest[@]}" ./...; }

# racetest PACKAGE...: one build has both the race detector and cgocheck2, which looks at each pointer
# that Go writes to C's memory. atexit_sleep_ms: else each process, and the tests start hundreds, waits
# a second at its end for races that may still come.
racetest() {
	go build -buildvcs=false -ldflags '-w -X main.version=v0.0.0-test' -o "$work/pyhook" ./cmd/pyhook
	export PYHOOK_LINKED_COMMAND=$work/pyhook # else eight packages link it, each for itself
	export GOEXPERIMENT=cgocheck2 GORACE="atexit_sleep_ms=0 ${GORACE:-}"
	gotest -race "$@"
}
check_race() {
	local packages
	packages=$(go list ./... | grep -vxF "$(go list "${plain[@]}" "${jobs[@]}")")
	# shellcheck disable=SC2086  # a package a word
	racetest "${longest[@]}" $packages
}
check_jobs() { racetest "${jobs[@]}"; }

# What the race detector scales down, cannot measure (memory, allocations) or has no use for: of
# pyhook the tests of the files that ask for it.
check_full() {
	local names
	names=$(grep -lE 'slow\.Of|testutil\.(FullSpeed|Scale)' pyhook/*_test.go | xargs grep -hoP '^func \KTest\w+' | paste -sd'|')
	gotest -run "^($names)\$" ./pyhook
	gotest "${plain[@]}"
	one TestSync_Step_allocations ./ddp/flat
	one TestTenThousandCollectivesLeaveNothing ./tests/transport
}

# What runs on the simulated accelerator wants a newer torch than most distributions have: pip's.
# Status 3: that cannot be had here, which the summary says.
check_simdevice() {
	local python
	python=$("$scripts/setup-matrix.sh" pip) || return 3
	PYHOOK_SIM_PYTHON=${python#*$'\t'}
	export PYHOOK_SIM_PYTHON
	gotest ./tests/simdevice
}

# What depends most on torch, under PyTorch's newest: recordings made and replayed there, and groups
# that end and are made anew. Status 3: as above.
check_newest() {
	local python
	python=$("$scripts/setup-matrix.sh" pip) || return 3
	export PYHOOK_PYTHON=${python#*$'\t'}
	gotest ./tests/replay
	one TestTorchGroup_Renewal ./pyhook
}

# The C code under AddressSanitizer. Leaks are counted by the tests: CPython leaks by design. The
# two libraries are loaded first, so that the sanitizer sees the C++ exceptions of torch.
asan() {
	local preload
	preload="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libstdc++.so.6)"
	run env ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}" \
		go test -asan -count=1 -vet=off -ldflags=-w -timeout "$timeout" -p "$slots" -exec "env LD_PRELOAD=$preload" "$@"
}
check_asan() { asan ./cbridge ./tensor ./tensorconv; }

# The deep ones.

check_chaos() { run env PYHOOK_DEEP=13 go test -count=1 -vet=off -timeout 60m -p 1 -run 'Chaos|Retry_chaos' ./ddp ./tests/ddp; }
check_deepasan() { asan ./cbridge ./tensor ./tensorconv ./pyhook ./ddp; }

# Garbage is collected at each use of a handle: a reference kept by luck is dropped.
check_debuggc() { run go test -tags pyhookdebug -count=1 -timeout "$timeout" ./cbridge ./tensor ./tensorconv ./c10d/... ./pyhook ./ddp; }

check_valgrind() {
	command -v valgrind >/dev/null || die "valgrind is not on PATH; on Debian: apt-get install valgrind"
	run env PYHOOK_VALGRIND=1 go test -count=1 -timeout "$timeout" -run Valgrind ./tests/cmem
}

# Every fuzz target of the clone, one after another. What fails is written to the package's
# testdata/fuzz, where go test finds it from then on. Inputs that find new code are made
# smaller for a moment only: where goroutines race to it, that would take a minute each.
check_fuzz() {
	local folder target bad=()
	while IFS=: read -r folder target; do
		run go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10m}" -fuzzminimizetime 100x -timeout 0 "./$folder" </dev/null ||
			bad+=("$folder:$target")
	done < <(grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' . |
		sed -E 's|^\./(.*)/[^/]*:func (.*)$|\1:\2|' | sort)
	((${#bad[@]} == 0)) || die "what failed: ${bad[*]}"
}

# A release built twice, the second time in another folder, with other settings and nothing cached:
# the same bytes. Then what is in it.
check_release() {
	local work
	work=$(mktemp -d)
	(
		trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
		git clone -q . "$work/clone"
		run scripts/release.sh
		(cd "$work/clone" && umask 077 && run env TZ=Asia/Tokyo LANG=C.UTF-8 GOCACHE="$work/cache" scripts/release.sh "$work/again")
		run diff out/release/SHA256SUMS "$work/again/SHA256SUMS"
	)
	local other uv=$cache/uv-0.9.9
	other=$("$scripts/setup-matrix.sh" pip) || die "the wheel's tests need a second Python with torch"
	if [[ ! -x $uv/bin/uv ]]; then
		"$PYHOOK_PYTHON" -m venv --clear "$uv" && "$uv/bin/python" -m pip install --disable-pip-version-check --quiet "uv==${uv##*-}"
	fi
	run env PYHOOK_RELEASE="$root/out/release" PYHOOK_OTHER_PYTHON="${other#*$'\t'}" PYHOOK_UV="$uv/bin/uv" \
		go test -count=1 -timeout "$timeout" ./tests/release
}

# The arm64 command of the release that is in out/release, in an emulator: slow.
check_arm64() {
	local folder
	[[ -e out/release/SHA256SUMS ]] || die "no release in out/release: run make release"
	folder=$("$scripts/setup-arm64.sh")
	run env PYHOOK_RELEASE="$root/out/release" PYHOOK_ARM64_ROOT="$folder" \
		go test -count=1 -timeout "$timeout" -v -run Arm64 ./tests/release
}

# The sbatch script, in a Slurm that is started for it.
check_slurm() {
	run env PYHOOK_SLURM=1 go test -count=1 -timeout "$timeout" -v -run Slurm ./tests/launchers
	local adapter
	for adapter in adapters/*/mnist; do
		run env PYHOOK_SLURM=1 go -C "$adapter" test -count=1 -timeout "$timeout" -v -run Mnist/srun .
	done
}

check_soak() { run go run -buildvcs=false ./tests/soak -minutes "${MINUTES:-5}"; }

lint=(fmt vet staticcheck ruff mypy words spell)
all=("${lint[@]}" pytest race simdevice asan)
long=(jobs full newest)
deep=(race jobs full chaos deepasan valgrind debuggc release soak fuzz)

case ${1:-all} in
all) checks=("${all[@]}") ;;
lint) checks=("${lint[@]}") ;;
long) checks=("${long[@]}") ;;
deep) checks=("${deep[@]}") ;;
*) checks=("$@") ;;
esac
for check in "${checks[@]}"; do
	declare -F "check_$check" >/dev/null || die "no check is called $check; there are: ${all[*]} ${long[*]} go slurm arm64 browser ${deep[*]:3}"
done

"$scripts/check-build.sh"
PYHOOK_PYTHON=$("$scripts/setup-python.sh")
export PYHOOK_PYTHON
[[ " ${checks[*]} " != *" go "* && " ${checks[*]} " != *" jobs "* ]] || "$scripts/setup-mpirun.sh"
tools=$("$scripts/setup-tools.sh" "$PYHOOK_PYTHON")

failed=() missing=() lines=()
work=$(mktemp -d)
lane=

# cleanup also ends the checks that run beside the others, if this script is interrupted.
cleanup() {
	[[ -z $lane ]] || kill -- "-$lane" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT

# timed runs a check, and leaves its exit status and seconds in a file.
timed() {
	local status start=$SECONDS
	# A subshell with its own set -e: bash ignores set -e in a function whose status is tested.
	set +e
	(
		set -e
		"check_$1"
	)
	status=$?
	set -e
	echo "$status $((SECONDS - start))" >"$work/$1.status"
}

# note takes a finished check into the summary.
note() {
	local status seconds verdict=ok
	read -r status seconds <"$work/$1.status" || status=1 seconds=0
	if ((status == 3)); then
		verdict="NOT RUN"
		missing+=("$1")
	elif ((status != 0)); then
		verdict=FAILED
		failed+=("$1")
	fi
	lines+=("$(printf '%-12s %-7s %4d s' "$1" "$verdict" "$seconds")")
}

# What leaves a core idle when it runs alone runs beside the checks after it, one after another, and
# is shown at the end. Where those end first, the last of what is left runs in their place.
front=() beside=()
for check in "${checks[@]}"; do
	if [[ $check == @(mypy|pytest|full|simdevice|newest|asan) ]]; then beside+=("$check"); else front+=("$check"); fi
done
((${#front[@]} > 0)) || { front=("${beside[@]}") beside=(); }

# begin is true for the first who begins a check.
begin() { mkdir "$work/$1.begun" 2>/dev/null; }

if ((${#beside[@]} > 0)); then
	set -m # a process group of its own
	(
		slots=1
		for check in "${beside[@]}"; do
			if begin "$check"; then timed "$check" >"$work/$check.output" 2>&1; fi
		done
	) </dev/null &
	set +m
	lane=$!
fi
for check in "${front[@]}"; do
	printf '\n==> %s\n' "$check"
	timed "$check"
	note "$check"
done
slots=1
for ((i = ${#beside[@]} - 1; i >= 0; i--)); do
	if begin "${beside[i]}"; then timed "${beside[i]}" >"$work/${beside[i]}.output" 2>&1 </dev/null; fi
done
wait
lane=
for check in ${beside[@]+"${beside[@]}"}; do
	printf '\n==> %s\n' "$check"
	cat "$work/$check.output"
	note "$check"
done

printf '\n==> summary (Python: %s)\n' "$PYHOOK_PYTHON"
printf '%s\n' "${lines[@]}"
if ((${#failed[@]})); then
	printf 'FAILED: %s. Run one again: scripts/test.sh %s\n' "${failed[*]}" "${failed[0]}"
	exit 1
fi
((${#missing[@]} == 0)) || printf 'NOT RUN, for the reason above: %s\n' "${missing[*]}"
((${#missing[@]} == 0)) || exit 0
printf 'all %d checks passed in %d s\n' "${#checks[@]}" "$SECONDS"
