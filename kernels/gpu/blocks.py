"""The shapes of programs that have a lane for each of a neuron's examples or merges, and how many there are."""

from typing import Any

import torch
import triton

Options = tuple[dict[str, Any], dict[str, Any]]  # a kernel's constants, and how it is launched
NO_FUSION = {"enable_fp_fusion": False}
LARGEST = 128  # examples of a neuron that one program takes through all stages
RESIDENT = 8  # programs of a multiprocessor, at most: as many as its registers hold of one warp with all it may use


def one_program(width: int) -> Options:
    """Four lanes a thread, eight from 2049 on: up to 128 lanes are one warp's, whose reductions need no barrier."""
    block = max(128, triton.next_power_of_2(width))
    return {"BLOCK": block}, {"num_warps": min(block // 128, 16), **NO_FUSION}


def n_programs(device: torch.device, n_units: int, n_bytes: int) -> int:
    """Return how many programs share n_units, each with n_bytes of scratch that it uses again and again.

    That is as many as have theirs in the L2 cache together, but at least one a multiprocessor.
    """
    if device.type != "cuda":
        return min(n_units, RESIDENT)
    gpu = torch.cuda.get_device_properties(device)
    fitting = gpu.L2_cache_size // max(n_bytes, 1)
    return int(min(n_units, max(fitting, gpu.multi_processor_count), RESIDENT * gpu.multi_processor_count))
