"""Devices by name, and what is known of them."""

import torch

from polysem.proto.errors import InvalidArgument


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; raises InvalidArgument where this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidArgument(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N", "device") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgument(f"Polysem runs on cpu and cuda, not on {name!r}", "device")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InvalidArgument(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs", "device")
    return device


def device_memory(device: torch.device) -> dict[str, float]:
    """Bytes of a GPU's memory: held by this process, free, and in all; none of a CPU's."""
    if device.type == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {"held": torch.cuda.memory_reserved(device), "free": free, "total": total}


def device_name(device: torch.device) -> str:
    """The device as people know it: cpu, or the GPU's number and name."""
    return "cpu" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"
