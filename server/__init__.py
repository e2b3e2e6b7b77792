"""The GPU box: model, index, engine, batcher and the gRPC service over them."""

from typing import Any

from polysem.server.paths import keep_compiled_kernels

keep_compiled_kernels()


def __getattr__(name: str) -> Any:
    if name == "local":  # torch takes seconds to import, so not before it is needed
        from polysem.server.in_process import local

        return local
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
