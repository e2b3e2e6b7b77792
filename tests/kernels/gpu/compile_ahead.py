"""Compile every Triton kernel as production launches it, for GPUs that need not be there.

    python tests/kernels/gpu/compile_ahead.py [NAME of a module in kernels/gpu …]

Each module's `variants()` yields (kernel, signature, constexprs, options); "i32:16" is a number that is a multiple of
16. Prints one line for each of them and each architecture, with what the machine code takes; fails with the compiler's
own error. The interpreter must be off.
"""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 90)  # A100, H100 and H200


def modules(names: list[str]) -> list[str]:
    """Those named, or all of kernels/gpu that have variants."""
    package = importlib.import_module("polysem.kernels.gpu")
    found = names or sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [name for name in found if hasattr(load(name), "variants")]


def load(name: str) -> Any:
    return importlib.import_module(f"polysem.kernels.gpu.{name}")


def jobs(names: list[str]) -> Iterator[tuple[str, int, int]]:
    for name in names:
        for i, _ in enumerate(load(name).variants()):
            for architecture in ARCHITECTURES:
                yield name, i, architecture


def compile_one(job: tuple[str, int, int]) -> str:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    name, i, architecture = job
    kernel, signature, constexprs, options = list(load(name).variants())[i]
    types = signature | dict.fromkeys(constexprs, "constexpr")
    if set(types) != set(kernel.arg_names):
        raise ValueError(f"variant {i} of {name} has arguments {sorted(types)}; expected {sorted(kernel.arg_names)}")
    aligned = {  # as the launcher finds numbers, and torch's allocations
        (k,): [["tt.divisibility", 16]]
        for k, arg in enumerate(kernel.arg_names)
        if types[arg].startswith("*") or types[arg].endswith(":16")
    }
    plain = {arg: types[arg].removesuffix(":16") for arg in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=plain, constexprs=constexprs, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    given = " ".join(f"{key}={value}" for key, value in (constexprs | options).items())
    inputs = " ".join(dict.fromkeys(kind for kind in signature.values() if kind.startswith("*")))
    return f"{name}.{kernel.__name__} sm_{architecture} {given} [{inputs}]: {resources(built)}"


def resources(built: Any) -> str:
    """Registers a thread, bytes a thread spills, bytes of shared memory a block, fused multiply-adds in the text."""
    import triton.backends.nvidia as nvidia

    tool = Path(nvidia.__path__[0]) / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    use = {kind: int(size) for kind, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", said.stdout)}
    fused = built.asm["ptx"].count("fma.rn.")
    spilled = use["STACK"] + use["LOCAL"]
    return f"{use['REG']} registers, {spilled} B spilled, {built.metadata.shared} B shared, {fused} fma"


def main() -> None:
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise SystemExit("TRITON_INTERPRET is set: nothing would be compiled")
    todo = list(jobs(modules(sys.argv[1:])))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for line in pool.map(compile_one, todo):
            print(line, flush=True)


if __name__ == "__main__":
    main()
