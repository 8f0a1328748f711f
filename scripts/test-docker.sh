#!/usr/bin/env bash
# Build the images and run tests/docker on them, from nothing: installs what is missing (as root),
# starts an engine if none runs, and takes away what it started, in every outcome.
#
# usage: test-docker.sh [GO TEST ARGUMENT...]
# PYHOOK_CACHE  where the engine's images are kept (default ~/.cache/pyhook)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR/.. source=tests/docker/engine.sh
source "$root/tests/docker/engine.sh"
# shellcheck source-path=SCRIPTDIR/.. source=tests/docker/images.sh
source "$root/tests/docker/images.sh"
cd "$root"

# clean takes away all that bears the label of this run's jobs, and the engine.
clean() {
	local status=$?
	trap - EXIT
	[[ -z ${tests:-} ]] || kill -- "-$tests" 2>/dev/null || true
	if docker info >/dev/null 2>&1; then
		docker ps -aq --filter label=pyhook.test | xargs -r docker rm -fv >/dev/null 2>&1 || true
		docker network ls -q --filter label=pyhook.test | xargs -r docker network rm >/dev/null 2>&1 || true
		docker volume ls -q --filter label=pyhook.test | xargs -r docker volume rm >/dev/null 2>&1 || true
	fi
	stop_engine
	[[ -z ${tmp:-} ]] || rm -rf "$tmp"
	exit "$status"
}
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

"$scripts/check-build.sh"
mkdir -p "$cache/docker"
exec 9>"$cache/docker/lock"
flock -n 9 || { say "waiting for another run" && flock 9; }
tmp=$(mktemp -d)
log=$tmp/log

install_missing
start_engine
find_bases
make_images
export PYHOOK_TEST_DOCKER=pyhook-test PYHOOK_TEST_BASE=$BASE_IMAGE
if docker compose version >/dev/null 2>&1; then
	export PYHOOK_TEST_COMPOSE="docker compose"
else
	export PYHOOK_TEST_COMPOSE=docker-compose
fi
say "images are there after $SECONDS s"
# Two jobs at once: they wait for timeouts most of the time.
: >"$tmp/tests.log"
set -m # the tests get a process group of their own, to be ended as one
TMPDIR=$tmp go test -count=1 -parallel 2 -timeout "${PYHOOK_TEST_TIMEOUT:-30m}" -v "$@" ./tests/docker </dev/null >"$tmp/tests.log" 2>&1 9>&- &
tests=$!
set +m
tail -n +1 -f --pid="$tests" "$tmp/tests.log" 9>&- &
shown=$!
status=0
wait "$tests" || status=$?
tests=
wait "$shown"
if ((status != 0)); then
	# What failed is far above, between the logs of the containers: said again, shortened.
	say "what failed:"
	awk '/Error Trace:/ { left = 30 } !/^ *\t/ { left = 0 } left > 0 { print substr($0, 1, 300); left-- }' "$tmp/tests.log" >&2
	exit "$status"
fi
say "done after $SECONDS s"
