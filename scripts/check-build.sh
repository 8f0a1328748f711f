#!/usr/bin/env bash
# Check what a build needs, and say what to install: Go 1.26 and a C compiler that cgo can use.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

cd "$root"
command -v go >/dev/null || die "go is not on PATH; pyhook needs Go 1.26 or newer: https://go.dev/dl"
version=$(go env GOVERSION 2>&1) || die "this Go cannot build pyhook, which needs 1.26 or newer: $version"
[[ $version =~ go([0-9]+)\.([0-9]+) ]] || die "cannot read the Go version: $version"
if ((BASH_REMATCH[1] == 1 && BASH_REMATCH[2] < 26)); then
	die "$version is too old; pyhook needs Go 1.26 or newer: https://go.dev/dl"
fi
[[ $(go env CGO_ENABLED) == 1 ]] || die "cgo is off; pyhook needs it: unset CGO_ENABLED, and have a C compiler on PATH (on Debian: apt-get install build-essential)"
read -ra cc <<<"$(go env CC)"
out=$(printf '#include <dlfcn.h>\nint main(void) { return 0; }\n' |
	"${cc[@]}" -x c - -o /dev/null 2>&1) ||
	die "the C compiler (${cc[*]}) does not work; on Debian: apt-get install build-essential. It said: $out"
