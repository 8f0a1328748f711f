#!/usr/bin/env bash
# Make the development tools and print the folder that holds them: pytest, ruff, mypy and codespell
# in an environment that also sees the packages (torch) of the interpreter given, and staticcheck.
# Kept in the cache, outside the clone; one set for each interpreter and Go version.
#
# usage: setup-tools.sh [PYTHON]     default: $PYHOOK_PYTHON, else what setup-python.sh prints
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
requirements=$scripts/requirements-tools.txt

python=${1:-${PYHOOK_PYTHON:-}}
[[ -n $python ]] || python=$("$scripts/setup-python.sh")

mkdir -p "$cache"
if command -v flock >/dev/null; then
	exec 9>"$cache/tools.lock"
	flock 9
fi

version=$("$python" -c 'import sys; print(sys.executable, sys.version)')
tools=$cache/tools-$(key "$version" "$(cat "$requirements")")
if [[ ! -e $tools/complete ]]; then
	say "installing pytest, mypy, ruff and codespell for $python into $tools"
	"$python" -m venv --clear --system-site-packages "$tools" >&2 ||
		die "$python cannot make environments (on Debian: apt-get install python3-venv)"
	# An environment made from another one sees the base interpreter's packages, not the other's.
	"$python" - "$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" <<-'EOF'
		import site, sys
		if sys.prefix != sys.base_prefix:
		    with open(sys.argv[1] + "/pyhook-base.pth", "w") as f:
		        f.write("\n".join(site.getsitepackages()) + "\n")
	EOF
	"$tools/bin/python" -m pip install --disable-pip-version-check --quiet -r "$requirements" >&2
	: >"$tools/complete"
fi

# staticcheck must be built by the Go that checks, hence the version in the name.
go_version=$(cd "$root" && go env GOVERSION)
checker=$cache/${staticcheck##*/}-$go_version
if [[ ! -x $checker/staticcheck ]]; then
	say "building ${staticcheck##*/} with $go_version"
	GOFLAGS='' GOBIN=$checker go install "$staticcheck" >&2
fi
ln -sf "$checker/staticcheck" "$tools/bin/staticcheck"

printf '%s\n' "$tools/bin"
