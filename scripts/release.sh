#!/usr/bin/env bash
# Build a release of the last commit: an archive with the command for each architecture, the Python
# package as a wheel, a bill of materials and the checksums. What is not committed is not in it.
# The same commit, version, Go, C compilers and Python give the same bytes.
#
# usage: release.sh [FOLDER]     default: out/release; it is written anew
# VERSION=v1.2.3        default: git describe
# ARCHES='amd64 arm64'  for which architectures
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

"$scripts/check-build.sh"
read -ra arches <<<"${ARCHES:-amd64 arm64}"
compilers=$("$scripts/setup-cross.sh" "${arches[@]}")
mapfile -t compilers <<<"$compilers"
commit=$(git rev-parse HEAD) || die "a release is built from a git clone"
version=${VERSION:-$(git describe --tags --always --abbrev=12)}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
[[ -z $(git status --porcelain) ]] || say "note: what is not committed is not in the release"

# What of the caller's settings would show in the bytes.
umask 022
unset CGO_CFLAGS CGO_CPPFLAGS CGO_LDFLAGS GOAMD64 GOARM64 GOEXPERIMENT
export GOFLAGS='' GOWORK=off LC_ALL=C TZ=UTC CGO_ENABLED=1 GOOS=linux

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source=$work/source out=$work/out
mkdir "$source" "$out"
git archive "$commit" | tar -x -C "$source"

# wheel_version prints the version as Python writes it (PEP 440): v1.2.3 is 1.2.3, four commits later
# it is 1.2.3.post4+gabc1234, and a commit without a tag is the package's own version, as .dev0+gabc1234.
wheel_version() {
	local own
	if [[ $version =~ ^v?([0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?)(-([0-9]+)-(g[0-9a-f]+))?$ && $version == *.* ]]; then
		printf '%s' "${BASH_REMATCH[1]}${BASH_REMATCH[6]:+.post${BASH_REMATCH[6]}+${BASH_REMATCH[7]}}"
	else
		own=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$source/python/pyhook/__init__.py")
		printf '%s' "$own.dev0+g${commit:0:12}"
	fi
}

# build ARCH CC makes the command, which carries the Python package too.
build() {
	say "linux/$1 with $2"
	(cd "$source" && GOARCH=$1 CC=$2 go build -buildvcs=false -trimpath \
		-ldflags "-s -w -buildid= -X main.version=$version -X main.commit=$commit" \
		-o "$work/pyhook-$1" ./cmd/pyhook)
}

# wheel builds with a setuptools of its own, pinned and kept in the cache.
wheel() {
	local python=${PYHOOK_PYTHON:-python3} pins=$scripts/requirements-release.txt tools
	tools=$cache/release-$(key "$("$python" -c 'import sys; print(sys.executable, sys.version)')" "$(cat "$pins")")
	if [[ ! -e $tools/complete ]]; then
		"$python" -m venv --clear "$tools" >&2 || die "$python cannot make environments (on Debian: apt-get install python3-venv)"
		"$tools/bin/python" -m pip install --disable-pip-version-check --quiet -r "$pins" >&2
		: >"$tools/complete"
	fi
	say "wheel $(wheel_version)"
	"$tools/bin/python" -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation \
		--wheel-dir "$out" "$source/python" >&2
}

# pack ARCH puts the command and what goes with it into one archive.
pack() {
	local name=pyhook-$version-linux-$1 shell
	mkdir -p "$work/$name/completions"
	cp "$work/pyhook-$1" "$work/$name/pyhook"
	cp "$source/README.md" "$work/licenses.txt" "$work/$name/"
	[[ ! -e $source/LICENSE ]] || cp "$source/LICENSE" "$work/$name/"
	for shell in bash zsh fish; do
		"$native" completion "$shell" >"$work/$name/completions/pyhook.$shell"
	done
	tar -C "$work" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
		-c "$name" | gzip -n -9 >"$out/$name.tar.gz"
}

sed -i "s/^__version__ = .*/__version__ = \"$(wheel_version)\"/" "$source/python/pyhook/__init__.py"
binaries=()
for i in "${!arches[@]}"; do
	build "${arches[i]}" "${compilers[i]}"
	binaries+=("$work/pyhook-${arches[i]}")
done
native=$work/pyhook-$(go env GOHOSTARCH)
[[ -x $native ]] || die "ARCHES must have $(go env GOHOSTARCH): the shell completions come from the command itself"
wheel
say "bill of materials"
env -u GOOS CGO_ENABLED=0 go run -C "$scripts/sbom" . -source "$source" -version "$version" \
	-sbom "$out/pyhook-$version.cdx.json" -licenses "$work/licenses.txt" "${binaries[@]}"
for arch in "${arches[@]}"; do pack "$arch"; done
(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)

target=${1:-$root/out/release}
rm -rf "$target"
mkdir -p "$(dirname -- "$target")"
mv "$out" "$target"
say "$target:"
(cd "$target" && ls -l)
