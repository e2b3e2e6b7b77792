"""Devices by name, and what is known of them."""

from pathlib import Path

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


def device_memory(*devices: torch.device) -> dict[str, float]:
    """Bytes of these GPUs' memory together: held by this process, free, and in all; none of a CPU's."""
    found = dict.fromkeys(("held", "free", "total"), 0.0)
    gpus = [device for device in devices if device.type != "cpu"]
    for device in gpus:
        free, total = torch.cuda.mem_get_info(device)
        for kind, n_bytes in (("held", torch.cuda.memory_reserved(device)), ("free", free), ("total", total)):
            found[kind] += n_bytes
    return found if gpus else {}


def free_bytes(device: torch.device) -> int | None:
    """Bytes of memory that are free on the device, for a CPU within its control group; None where that is unknown."""
    if device.type != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        cached = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, StopIteration, ValueError):  # no group, or one without a limit
        return free
    return min(free, most - used + cached)


def device_name(device: torch.device) -> str:
    """The device as people know it: cpu, or the GPU's number and name."""
    return "cpu" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"
