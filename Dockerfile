# The pyhook command with CPython and PyTorch, as a container.
#
#   make image      or      docker build --build-arg VERSION=v1.2.3 -t pyhook .
#   docker run --rm pyhook demo --out /data/demo
#
# Both images are arguments. The builder's glibc must not be newer than the base's; the base must
# be a Debian or Ubuntu that has the package python3-torch.
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${GO_IMAGE} AS builder
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# .git stays outside the image, so the version comes as an argument.
ARG VERSION=unknown
RUN CGO_ENABLED=1 go build -buildvcs=false -trimpath \
        -ldflags "-s -w -X main.version=${VERSION}" -o /out/pyhook ./cmd/pyhook

FROM ${BASE_IMAGE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates python3 python3-numpy python3-torch tini \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        "libpython$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 --shell /usr/sbin/nologin pyhook \
    && install -d -o pyhook -g pyhook /data
COPY --from=builder /out/pyhook /usr/local/bin/pyhook

ARG VERSION=unknown
LABEL org.opencontainers.image.title="pyhook" \
      org.opencontainers.image.description="Runs PyTorch DDP communication hooks from Go trainers" \
      org.opencontainers.image.version="${VERSION}"

ENV PYHOOK_PYTHON=/usr/bin/python3
USER 10001:10001
WORKDIR /data
HEALTHCHECK --interval=60s --timeout=30s --start-period=10s CMD ["pyhook", "doctor", "--quick"]
# tini reaps the Python workers and passes signals on.
ENTRYPOINT ["/usr/bin/tini", "--", "pyhook"]
CMD ["--help"]
