"""What a figure was made on, how long its run may take, and the memory that it takes."""

import datetime
import math
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = {"torch": "torch", "Triton": "triton", "Numba": "numba", "NumPy": "numpy", "scikit-learn": "scikit-learn"}
OF_CUML = {"cuML": "cuml-cu13", "CuPy": "cupy-cuda13x"}


def name_of(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def heading(device):
    """Date, machine, versions and command, and how the distances' kernel is launched there."""
    named = PACKAGES | (OF_CUML if device.type == "cuda" else {})
    packages = ", ".join(f"{name} {found}" for name, package in named.items() if (found := _version(package)))
    command = shlex.join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    facts = [f"{os.cpu_count()} CPU cores"]
    if device.type == "cuda":
        facts += [f"CUDA {torch.version.cuda}", f"driver {_driver()}", f"{_memory(device) >> 30} GiB"]
    made = f"Made {datetime.date.today()} on {name_of(device)} ({', '.join(facts)}; {packages}) with"
    return f"{made}\n\n    {command}\n\n{launch(device)}\n"


def launch(device):
    """The tile of a figure's distances: what else a reader must know to compare it with another."""
    if device.type == "cpu":
        return "The CPU's kernels."
    from polysem.kernels.gpu.distances import GRAM_SHAPES

    shapes = "; ".join(
        f"{name} {shape['TILE']} by {shape['BLOCK']} with {shape['num_warps']} warps"
        for name, shape in GRAM_SHAPES.items()
    )
    return f"Tiles of the distances: {shapes}."


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory(device):
    return torch.cuda.get_device_properties(device).total_memory


def _driver():
    if not shutil.which("nvidia-smi"):
        return "unknown"
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split("\n")[0].strip() or "unknown"


class Budget:
    """Seconds for a run: what is not begun in time is left out, and told at the end."""

    def __init__(self, seconds=None):
        self._end = math.inf if seconds is None else time.perf_counter() + seconds
        self._left_out = []

    def covers(self, what):
        """Whether there is time to begin this."""
        if time.perf_counter() < self._end:
            return True
        if what not in self._left_out:
            self._left_out.append(what)
        return False

    def close(self):
        print(f"\nThe time was up before: {'; '.join(self._left_out)}." if self._left_out else "\nComplete.")


class PeakMemory:
    """MiB above what was in use at the beginning, read as `mib` at the end.

    Of a GPU: of the device, sampled each 2 ms, so torch's, RMM's and CuPy's together. Of a CPU: of this process; what
    an earlier measurement left to it counts as in use, so each wants a process of its own.
    """

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        self._stop = threading.Event()
        if self.device.type == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
            self._before = _status("VmRSS")
            return self
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        self._before = self._peak = self._used()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        if self.device.type == "cpu":
            self._peak = _status("VmHWM")
        else:
            self._thread.join()
        self.mib = max(0, self._peak - self._before) >> 20

    def _watch(self):
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, self._used())

    def _used(self):
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free


def _status(field):
    """VmHWM is the peak of this process, VmRSS what it holds now; bytes."""
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) << 10
