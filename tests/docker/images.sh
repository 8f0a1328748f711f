# shellcheck shell=bash
# Sourced by scripts/test-docker.sh: the images that are tested, and those they are made from.
#
# PYHOOK_DOCKER_SUITE=bookworm  the Debian release

suite=${PYHOOK_DOCKER_SUITE:-bookworm}
mirror=${PYHOOK_DOCKER_MIRROR:-http://deb.debian.org/debian}

# find_bases sets BASE_IMAGE and GO_IMAGE: a registry's, or where none is reached some made here.
find_bases() {
	local go=golang:1.26-$suite base=debian:$suite-slim
	if docker image inspect "$base" "$go" >/dev/null 2>&1 ||
		{ timeout 20 docker pull -q "$base" && timeout 300 docker pull -q "$go"; } >/dev/null 2>&1; then
		BASE_IMAGE=$base GO_IMAGE=$go
		say "base images: $BASE_IMAGE, $GO_IMAGE"
		return
	fi
	BASE_IMAGE=pyhook-base:$suite
	GO_IMAGE=pyhook-go:$suite-$(key "$(go env GOVERSION GOROOT GOPROXY)")
	say "no image registry is reached: base images come from $mirror ($BASE_IMAGE) and this Go ($GO_IMAGE)"
	docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 || make_base
	docker image inspect "$GO_IMAGE" >/dev/null 2>&1 || make_go
}

# make_base imports a Debian as small as the official slim image: no documents, no apt lists.
make_base() {
	local tarball=$cache/docker/$suite.tar folder
	if [[ ! -e $tarball ]]; then
		[[ $(id -u) -eq 0 ]] || die "debootstrap takes root: run this as root, or give the engine $BASE_IMAGE"
		command -v debootstrap >/dev/null || install debootstrap
		mkdir -p "$cache/docker"
		folder=$(mktemp -d "$cache/docker/debootstrap.XXXXXX")
		say "debootstrap $suite (half a minute)"
		debootstrap --variant=minbase "$suite" "$folder" "$mirror" >"$folder.log" 2>&1 ||
			die "debootstrap failed:"$'\n'"$(tail -n 10 "$folder.log")"
		printf 'path-exclude /usr/share/%s/*\n' doc man info locale lintian >"$folder/etc/dpkg/dpkg.cfg.d/slim"
		rm -rf "$folder"/usr/share/{doc,man,info,locale,lintian}/* "$folder"/var/{cache/apt,lib/apt/lists,log}/*
		# A network may be one that only this machine's own certificates open.
		cp -a /usr/local/share/ca-certificates "$folder/usr/local/share/" 2>/dev/null || true
		tar -C "$folder" -cf "$tarball.part" . && mv "$tarball.part" "$tarball"
		rm -rf "$folder" "$folder.log"
	fi
	docker import "$tarball" "$BASE_IMAGE" >/dev/null
}

# make_go adds a C compiler and the Go that is on PATH.
make_go() {
	local folder
	folder=$(mktemp -d "${TMPDIR:-/tmp}/pyhook-go.XXXXXX")
	cat >"$folder/Dockerfile" <<-END
		FROM $BASE_IMAGE
		RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev
		COPY go /usr/local/go
		ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin GOTOOLCHAIN=local GOPROXY=$(go env GOPROXY)
	END
	say "making $GO_IMAGE"
	tar -c -C "$folder" Dockerfile -C "$(go env GOROOT)" --transform 's,^\.,go,' \
		--exclude=./test --exclude=./api --exclude=./doc --exclude='*_test.go' --exclude=testdata . |
		docker build -q -t "$GO_IMAGE" - >"$log" 2>&1 || die "$GO_IMAGE cannot be made:"$'\n'"$(tail -n 20 "$log")"
	rm -rf "$folder"
}

# make_images builds the images under test, of one version, so that the program is built once.
make_images() {
	local variant version
	version=$(git describe --tags --always --dirty 2>/dev/null || echo test)
	for variant in none cpu; do
		say "make image VARIANT=$variant"
		make --no-print-directory -C "$root" image IMAGE="pyhook-test:$variant" VARIANT="$variant" VERSION="$version" \
			BASE_IMAGE="$BASE_IMAGE" GO_IMAGE="$GO_IMAGE" >"$log" 2>&1 ||
			die "the image cannot be built:"$'\n'"$(tail -n 40 "$log")"
	done
	# Each version that was built leaves an image without a name. The cache is for the last days'.
	[[ -z ${dockerd:-} ]] || docker image prune -f --filter until=72h >/dev/null
}
