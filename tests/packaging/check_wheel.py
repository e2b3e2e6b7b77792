"""Check a built wheel: everything it must hold, nothing it must not, and what it is without extras.

python tests/packaging/check_wheel.py dist/polysem-*.whl
"""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MUST_HOLD = (
    "polysem/py.typed",
    "polysem/client/drawing/neuron.css",
    "polysem/client/drawing/neuron.js",
    "polysem/client/explorer/pages/neuron.html",
    "polysem/client/explorer/static/page.js",
    "polysem/server/demo/model/model.safetensors",
    "polysem/server/demo/model/config.json",
    "polysem/server/demo/model/tokenizer.json",
    "polysem/server/demo/sae/cfg.json",
    "polysem/server/demo/sae/sae_weights.safetensors",
    "polysem/v1/neuron_service.proto",
    "polysem/v1/neuron_service_pb2.py",
    "polysem/v1/neuron_service_pb2.pyi",
    "polysem/v1/neuron_service_pb2_grpc.py",
    *(
        f"polysem/{path.relative_to(ROOT).as_posix()}"
        for folder in ("client", "kernels", "proto", "server")
        for path in (ROOT / folder).rglob("*.py")
        if path.parent != ROOT / "proto/polysem/v1"  # installed as polysem/v1
    ),
)
THIN = """
import sys, time
start = time.perf_counter()
import polysem.client
took = time.perf_counter() - start
heavy = {"torch", "transformers", "numba", "scipy", "pydantic", "pandas", "rich"} & set(sys.modules)
assert not heavy, f"import polysem.client imports {heavy}"
print(f"import polysem.client: {took:.2f} s")
"""


def main(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in MUST_HOLD if name not in names]
    assert not missing, f"the wheel lacks {missing}"
    foreign = [name for name in names if not name.startswith(("polysem/", "polysem-"))]
    assert not foreign, f"the wheel holds {foreign}"
    tests = [name for name in names if "/tests/" in name or "/test_" in name or name.endswith("conftest.py")]
    assert not tests, f"the wheel holds {tests}"
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        check_thin_install(wheel, Path(folder))


def check_thin_install(wheel: Path, folder: Path) -> None:
    """Without extras it is the client: no torch, quick to import, and the server's commands say what to install."""
    venv.create(folder, with_pip=True)
    run(folder, "pip", "install", "--quiet", str(wheel))
    installed = run(folder, "pip", "list", "--format=freeze").lower()
    assert "torch" not in installed, "the thin client installs torch"
    assert "numba" not in installed, "the thin client installs numba"
    print(f"{len(installed.split())} packages: {' '.join(installed.split())}")
    run(folder, "python", "-c", THIN)  # the first import compiles
    print(run(folder, "python", "-c", THIN).strip())
    assert "cluster" in run(folder, "polysem", "--help")
    for command in (["serve"], ["demo"], ["index", "--out", "x"]):
        failed = subprocess.run([folder / "bin" / "polysem", *command], capture_output=True, text=True)
        assert failed.returncode == 1, (command, failed)
        assert "pip install 'polysem[server]'" in failed.stderr, (command, failed.stderr)
        assert "Traceback" not in failed.stderr, failed.stderr


def run(folder: Path, command: str, *arguments: str) -> str:
    result = subprocess.run([folder / "bin" / command, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, f"{command} {' '.join(arguments)}: {result.stderr}"
    return result.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
