"""A gRPC server that runs a hook, until stdin ends. It prints a line when it is ready.

usage: sidecar.py HOOK SOCKET

The messages are protobuf's own BytesValue: a bucket, and the hook's result.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import hooks
import torch
from google.protobuf.wrappers_pb2 import BytesValue


def main(name: str, socket: str) -> None:
    hook = getattr(hooks, name)
    torch.set_num_threads(1)

    def run(request: Any, _context: Any = None) -> Any:
        memory = bytearray(request.value)  # what protobuf gives cannot be written to
        result = hook(None, hooks.Bucket(torch.frombuffer(memory, dtype=torch.float32))).wait()
        return BytesValue(value=result.numpy().tobytes())

    def stream(requests: Iterator[Any], _context: Any) -> Iterator[Any]:
        return map(run, requests)

    form = {
        "request_deserializer": BytesValue.FromString,
        "response_serializer": BytesValue.SerializeToString,
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    methods = {
        "Run": grpc.unary_unary_rpc_method_handler(run, **form),
        "Stream": grpc.stream_stream_rpc_method_handler(stream, **form),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peers.Hook", methods),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
