# The pyhook command with CPython and, unless VARIANT is none, PyTorch: docs/docker.md.
#
#   make image      or      docker build --build-arg VERSION=v1.2.3 -t pyhook .
#   docker run --rm pyhook demo --out /data/demo
#
# Works with BuildKit and with the classic builder.

# Any image with Go 1.26 and a C compiler, its glibc no newer than that of BASE_IMAGE.
ARG GO_IMAGE=golang:1.26-bookworm
# Any Debian or Ubuntu. For VARIANT=cpu it must have the package python3-torch.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${GO_IMAGE} AS builder
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# .git stays outside the image, so the version comes as an argument.
ARG VERSION=unknown
RUN CGO_ENABLED=1 go build -buildvcs=false -trimpath \
        -ldflags "-s -w -X main.version=${VERSION}" -o /out/pyhook ./cmd/pyhook \
    && go clean -cache

FROM ${BASE_IMAGE}
ARG DEBIAN_FRONTEND=noninteractive
# libpython's name has the version of the base's Python in it. Of the standard library only what
# torch imports is kept compiled: the rest is half of it, and is compiled when it is imported.
# What only help() and Python's own tests read is left out, and turtle.py, which wants tkinter.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 tini \
    && apt-get install -y --no-install-recommends \
        "libpython$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
    && find /usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} + \
    && python3 -c 'import argparse, asyncio, concurrent.futures.process, ctypes.util, dataclasses, \
http.client, inspect, json, logging.config, multiprocessing.managers, pickle, platform, \
socketserver, tarfile, tempfile, timeit, typing, unittest.mock, urllib.request, uuid, zipfile' \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old \
        /var/log/apt /var/log/dpkg.log /usr/bin/tini-static /usr/lib/python3.*/pydoc_data /usr/lib/python3.*/test \
        /usr/lib/python3.*/turtle.py \
        /usr/lib/python3.*/lib-dynload/_test*.so /usr/lib/python3.*/lib-dynload/_*_test.*.so \
        /usr/lib/python3.*/lib-dynload/_xxtestfuzz.*.so

# cpu: Debian's torch, or pip's from TORCH_INDEX where that is given. cuda: pip's, whose packages
# bring CUDA with them. none: yours, in an environment mounted or copied to /opt/torch.
ARG VARIANT=cpu
ARG TORCH_INDEX=
ARG TORCH=torch
ENV PATH=/opt/torch/bin:$PATH
RUN set -eu; \
    install="apt-get install -y --no-install-recommends"; \
    case "${VARIANT}${TORCH_INDEX:+-pip}" in \
    none*) exit 0 ;; \
    cpu) apt-get update; $install python3-numpy python3-torch ;; \
    cpu-pip | cuda*) \
        apt-get update; $install ca-certificates python3-venv; \
        python3 -m venv /opt/torch; \
        PIP_CERT=/etc/ssl/certs/ca-certificates.crt /opt/torch/bin/pip install --no-cache-dir \
            ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" numpy ;; \
    *) echo "VARIANT=${VARIANT}: must be cpu, cuda or none" >&2; exit 1 ;; \
    esac; \
    python3 -c 'import torch.distributed.run'; \
    apt-get clean; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old \
        /var/log/apt /var/log/dpkg.log

RUN useradd --create-home --uid 10001 --shell /usr/sbin/nologin pyhook \
    && install -d -o pyhook -g pyhook /data
COPY deploy/docker/pyhook-torchrun deploy/docker/pyhook-rendezvous /usr/local/bin/
COPY --from=builder /out/pyhook /usr/local/bin/pyhook

ARG BASE_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pyhook" \
      org.opencontainers.image.description="Runs PyTorch DDP communication hooks from Go trainers" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      pyhook.variant="${VARIANT}"

# The container toolkit of NVIDIA reads these; elsewhere they mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /data
HEALTHCHECK --interval=2m --timeout=30s --start-period=30s CMD ["pyhook", "doctor", "--quick"]
# tini reaps the Python workers and passes signals on.
ENTRYPOINT ["/usr/bin/tini", "--", "pyhook"]
CMD ["--help"]
