#!/usr/bin/env bash
# Build a release of the last commit: for each architecture an archive with the command, and a wheel
# of the Python package with the command in it; a wheel without it for any platform; a bill of
# materials and the checksums. What is not committed is not in it.
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

# setup_wheels sets $pip: with a setuptools of its own, pinned and kept in the cache.
setup_wheels() {
	local python=${PYHOOK_PYTHON:-python3} pins=$scripts/requirements-release.txt tools
	tools=$cache/release-$(key "$("$python" -c 'import sys; print(sys.executable, sys.version)')" "$(cat "$pins")")
	if [[ ! -e $tools/complete ]]; then
		"$python" -m venv --clear "$tools" >&2 || die "$python cannot make environments (on Debian: apt-get install python3-venv)"
		"$tools/bin/python" -m pip install --disable-pip-version-check --quiet -r "$pins" >&2
		: >"$tools/complete"
	fi
	pip=("$tools/bin/python" -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --wheel-dir "$out")
}

# wheel builds the one for any platform.
wheel() {
	say "wheel $wheel"
	"${pip[@]}" "$source/python" >&2
}

# platform_wheel ARCH builds the one with the command, for the systems that have the glibc that the
# command needs (tests/release looks): docs/releases.md.
platform_wheel() {
	local copy=$work/python-$1 machine=x86_64
	[[ $1 == amd64 ]] || machine=aarch64
	say "wheel $wheel with the command, $machine"
	cp -r "$source/python" "$copy"
	install -m 755 "$work/pyhook-$1" "$copy/pyhook_command/pyhook"
	sed -i -e 's/^include = \["pyhook", /&"pyhook_command", /' \
		-e 's/^pyhook = \["py.typed"\]/&\npyhook_command = ["pyhook"]/' "$copy/pyproject.toml"
	printf '\n[project.scripts]\npyhook = "pyhook_command:main"\n' >>"$copy/pyproject.toml"
	"${pip[@]}" --config-settings="--build-option=--plat-name=manylinux_2_34_$machine" "$copy" >&2
}

# licenses BINARY prints the licence of each module that the binary is linked from. A module without
# one may not be passed on.
licenses() {
	local module modules version folder file files rule
	rule=$(printf '=%.0s' {1..80})
	modules=$(printf 'std %s\n' "$(go env GOVERSION)" && go version -m "$1" | awk '$1 == "dep" { print $2, $3 }')
	printf 'What the pyhook binary is linked from, and the licence of each.\n'
	while read -r module version; do
		folder=$(go env GOROOT)
		[[ $module == std ]] || folder=$(cd "$source" && go list -m -f '{{.Dir}}' "$module")
		mapfile -t files < <(find "$folder" -maxdepth 1 -type f -regextype posix-extended \
			-iregex '.*/(licen[cs]e|copying|notice|patents)([.-][^/]*)?' | sort)
		# Its LICENSE is a choice between licences in other files.
		[[ $module != github.com/golang/freetype ]] || files=("$folder/licenses/ftl.txt")
		((${#files[@]})) || die "$module has no licence in $folder"
		for file in "${files[@]}"; do
			printf '\n%s\n%s %s, %s\n\n' "$rule" "$module" "$version" "${file#"$folder"/}"
			cat "$file"
		done
	done <<<"$modules"
	printf '\n'
	cat "$source/internal/demo/digits/ATTRIBUTION.md"
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

wheel=$(wheel_version)
sed -i "s/^__version__ = .*/__version__ = \"$wheel\"/" "$source/python/pyhook/__init__.py"
for i in "${!arches[@]}"; do
	build "${arches[i]}" "${compilers[i]}"
done
native=$work/pyhook-$(go env GOHOSTARCH)
[[ -x $native ]] || die "ARCHES must have $(go env GOHOSTARCH): the shell completions come from the command itself"
setup_wheels
wheel
for arch in "${arches[@]}"; do platform_wheel "$arch"; done
say "bill of materials"
# No serial number and no time: they would differ. No licences either: the tool's guesses are wrong for
# golang.org/x and freetype; the archives have the texts.
env -u GOOS CGO_ENABLED=0 go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0 bin \
	-json -std -noserial -notimestamp -version "$version" -output "$out/pyhook-$version.cdx.json" "$native" >&2
licenses "$native" >"$work/licenses.txt"
for arch in "${arches[@]}"; do pack "$arch"; done
(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)

target=${1:-$root/out/release}
rm -rf "$target"
mkdir -p "$(dirname -- "$target")"
mv "$out" "$target"
say "$target:"
(cd "$target" && ls -l)
