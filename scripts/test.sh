#!/usr/bin/env bash
# Run checks by name, in the order given, and sum up. A failed check does not stop the ones after
# it. `make test` runs all, `make test-deep` the deep ones; docs/testing.md says what each finds.
#
# usage: test.sh [all | lint | deep | CHECK...]
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
# The manifests of deploy/kubernetes; a module of its own, with Kubernetes in it.
check_kubernetes() {
	cd tests/kubernetes
	run go vet ./...
	run go test -count=1 -timeout "$timeout" ./...
}
# -count=1: Go's test cache does not know of the interpreter that a test starts.
check_go() { run go test -count=1 -timeout "$timeout" ./...; }
check_race() { run go test -race -count=1 -timeout "$timeout" ./...; }

# Every pointer that passes between Go and C is checked.
check_cgocheck() {
	run env GOEXPERIMENT=cgocheck2 go test -count=1 -timeout "$timeout" ./cbridge ./tensorconv ./pyhook ./ddp
}

# The C code under AddressSanitizer. Leaks are counted by the tests: CPython leaks by design. The
# two libraries are loaded first, so that the sanitizer sees the C++ exceptions of torch.
asan() {
	local preload
	preload="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libstdc++.so.6)"
	run env ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}" \
		go test -asan -count=1 -timeout "$timeout" -exec "env LD_PRELOAD=$preload" "$@"
}
check_asan() { asan ./cbridge ./tensorconv; }

# The deep ones.

check_deepasan() { asan ./cbridge ./tensorconv ./pyhook ./ddp; }

# Garbage is collected at each use of a handle: a reference kept by luck is dropped.
check_debuggc() { run go test -tags pyhookdebug -count=1 -timeout "$timeout" ./cbridge ./tensorconv ./pyhook ./ddp; }

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
	run go -C scripts/sbom vet ./...
	work=$(mktemp -d)
	(
		trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
		git clone -q . "$work/clone"
		run scripts/release.sh
		(cd "$work/clone" && umask 077 && run env TZ=Asia/Tokyo LANG=C.UTF-8 GOCACHE="$work/cache" scripts/release.sh "$work/again")
		run diff out/release/SHA256SUMS "$work/again/SHA256SUMS"
	)
	run env PYHOOK_RELEASE="$root/out/release" go test -count=1 -timeout "$timeout" ./tests/release
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
check_slurm() { run env PYHOOK_SLURM=1 go test -count=1 -timeout "$timeout" -v -run Slurm ./tests/launchers; }

check_soak() { run go run -buildvcs=false ./tests/soak -minutes "${MINUTES:-5}"; }

lint=(fmt vet staticcheck ruff mypy words spell)
all=("${lint[@]}" pytest race cgocheck asan)
deep=(race cgocheck deepasan valgrind debuggc release soak fuzz)

case ${1:-all} in
all) checks=("${all[@]}") ;;
lint) checks=("${lint[@]}") ;;
deep) checks=("${deep[@]}") ;;
*) checks=("$@") ;;
esac
for check in "${checks[@]}"; do
	declare -F "check_$check" >/dev/null || die "no check is called $check; there are: ${all[*]} go slurm arm64 ${deep[*]:2}"
done

"$scripts/check-build.sh"
PYHOOK_PYTHON=$("$scripts/setup-python.sh")
export PYHOOK_PYTHON
[[ " ${checks[*]} " != *" go "* && " ${checks[*]} " != *" race "* ]] || "$scripts/setup-mpirun.sh"
tools=$("$scripts/setup-tools.sh" "$PYHOOK_PYTHON")

failed=() lines=()
for check in "${checks[@]}"; do
	printf '\n==> %s\n' "$check"
	start=$SECONDS verdict=ok
	# A subshell with its own set -e: bash ignores set -e in a function whose status is tested.
	set +e
	(
		set -e
		"check_$check"
	)
	status=$?
	set -e
	if ((status != 0)); then
		verdict=FAILED
		failed+=("$check")
	fi
	lines+=("$(printf '%-12s %-6s %4d s' "$check" "$verdict" $((SECONDS - start)))")
done

printf '\n==> summary (Python: %s)\n' "$PYHOOK_PYTHON"
printf '%s\n' "${lines[@]}"
if ((${#failed[@]})); then
	printf 'FAILED: %s. Run one again: scripts/test.sh %s\n' "${failed[*]}" "${failed[0]}"
	exit 1
fi
printf 'all %d checks passed in %d s\n' "${#checks[@]}" "$SECONDS"
