"""What a GPU is needed for is carried out in one short run, and results say when they are not complete."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def on_gpu():
    spec = importlib.util.spec_from_file_location("on_gpu", BENCHMARKS / "on_gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_takes_eight_minutes_at_most(on_gpu):
    assert sum(run.seconds for run in [*on_gpu.SMALL, *on_gpu.LARGE]) <= 480


def test_tests_come_first_and_every_figure_has_a_file(on_gpu):
    for runs in (on_gpu.SMALL, on_gpu.LARGE):
        assert runs[0].words[:2] == ["-m", "pytest"]
        assert all((BENCHMARKS / Path(run.words[0]).name).is_file() for run in runs[1:])
    assert [run.name for run in [*on_gpu.SMALL[1:], *on_gpu.LARGE[1:]]] == [
        "kernels", "whole-model", "paper-scale", "precision", "large", "large-near",
    ]  # fmt: skip


def carry_out(on_gpu, folder, code, seconds=60):
    run = on_gpu.Run("figures", ["-u", "-c", code], seconds)
    return on_gpu.carry_out(run, folder, "h200"), (folder / "figures-h200.md").read_text()


def test_a_result_is_what_was_printed(on_gpu, tmp_path):
    assert carry_out(on_gpu, tmp_path, "print('12 s')") == ("", "12 s\n")


def test_a_run_that_takes_too_long_is_stopped_and_its_file_says_so(on_gpu, tmp_path):
    problem, text = carry_out(on_gpu, tmp_path, "print('12 s'); import time; time.sleep(600)", seconds=2)
    assert problem == "stopped after 2 s"
    assert text == "12 s\n\nNot complete: stopped after 2 s.\n"


def test_a_run_that_fails_is_told(on_gpu, tmp_path):
    problem, text = carry_out(on_gpu, tmp_path, "print('12 s'); raise SystemExit(3)")
    assert problem == "failed with 3"
    assert text == "12 s\n\nNot complete: failed with 3.\n"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-80GB", "a100"), ("thing", "thing")],
)
def test_results_are_named_after_the_gpu(on_gpu, name, suffix):
    assert on_gpu.suffix_of(name) == suffix


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "machine", raising=False)
    yield importlib.import_module("machine")
    sys.modules.pop("machine", None)


def test_a_heading_names_machine_versions_command_and_kernels(machine, monkeypatch):
    import torch

    monkeypatch.setattr(sys, "argv", ["/somewhere/tests/benchmarks/large.py", "--data", "near"])
    text = machine.heading(torch.device("cpu"))
    assert f"torch {torch.__version__}" in text
    assert "\n\n    python tests/benchmarks/large.py --data near\n\nThe CPU's kernels.\n" in text


def test_figures_of_a_gpu_say_the_tile_of_their_distances(machine):
    import torch

    pytest.importorskip("triton")
    assert "float32 64 by 32 with 4 warps" in machine.launch(torch.device("cuda"))


def test_what_is_not_begun_in_time_is_told(machine, capsys):
    budget = machine.Budget(-1)
    assert not budget.covers("N = 256")
    assert not budget.covers("N = 4096")
    budget.close()
    assert capsys.readouterr().out == "\nThe time was up before: N = 256; N = 4096.\n"
    budget = machine.Budget()
    assert budget.covers("N = 256")
    budget.close()
    assert capsys.readouterr().out == "\nComplete.\n"


def test_the_peak_of_a_measurement_is_its_own(machine):
    import torch

    with machine.PeakMemory(torch.device("cpu")) as peak:
        torch.ones(64 << 18)  # 64 MiB
    assert 60 <= peak.mib <= 80
