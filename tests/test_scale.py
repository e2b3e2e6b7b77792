"""What docs/scale.md says is what tests/benchmarks/scale.py prints."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def printed(*arguments):
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "scale.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def row(table, name):
    (line,) = (line for line in table.splitlines() if name in line)
    return [cell.strip("* ") for cell in line.split("|")[2:-1]]


def test_the_pages_table_is_the_calculators():
    assert printed() in (ROOT / "docs" / "scale.md").read_text()


def test_the_pages_table_of_a_gated_model_is_the_calculators():
    shape = "--shape", "32", "4096", "14336", "2048", "--gated", "--both-sides"
    found = printed(*shape, "--documents", "2e5", "--tokens", "1e8", "--gpus", "1", "2", "8")
    assert found in (ROOT / "docs" / "scale.md").read_text()


def test_the_formulas_give_the_run_that_was_measured():
    whole_contexts = "--documents", "0", "--tokens", "10.23e6"  # 10,000 of 1,023 beside BOS
    found = printed("--shape", "12", "768", "3072", "1024", "--gpus", "1", *whole_contexts)
    (rate,) = row(found, "tokens/s a GPU, both passes")
    measured = 10.24e6 / (13.2 + 17.8)  # scan, select, collect: tests/benchmarks/results/paper-scale-h200.md
    assert abs(float(rate.replace(",", "")) / measured - 1) < 0.01
