"""Scripts that people run by hand explain themselves, and say in a sentence what path is not there."""

import runpy
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
SCRIPTS = {
    path.relative_to(TESTS).as_posix(): path
    for folder in ("benchmarks", "load")
    for path in sorted((TESTS / folder).glob("*.py"))
    if "__main__" in path.read_text()
}


@pytest.fixture
def run(monkeypatch, capfd):
    """A function: a script with its arguments, in this process; its exit status or last words, and what it wrote."""

    def run(name, *words):
        script = SCRIPTS[name]
        monkeypatch.syspath_prepend(script.parent)
        monkeypatch.setenv("GRPC_VERBOSITY", "NONE")  # as some set it
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        return ended.value.code, "".join(capfd.readouterr())

    yield run
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent in {script.parent for script in SCRIPTS.values()}:
            del sys.modules[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(run, name):
    status, said = run(name, "--help")
    assert status == 0
    assert said.startswith(f"usage: {Path(name).name}")


@pytest.mark.parametrize(
    "words",
    [
        "benchmarks/before.py nowhere",
        "benchmarks/contexts.py --before nowhere",
        "benchmarks/gated_model.py nowhere",
        "benchmarks/gpt2_small.py --tokenizer nowhere --corpus nowhere.jsonl",
        "benchmarks/indexing.py --tokenizer nowhere",
        "benchmarks/loading.py nowhere",
        "benchmarks/paper_scale.py --tokenizer nowhere",
    ],
)
def test_a_folder_that_is_not_there_is_told_in_a_sentence(run, words):
    status, said = run(*words.split())
    assert status == 2
    assert "there is no folder 'nowhere'" in said


@pytest.mark.parametrize(
    "words", ["benchmarks/indexing.py --model ./nowhere", "benchmarks/rounding.py --index nowhere"]
)
def test_what_polysem_refuses_ends_a_script_with_that_sentence(run, words):
    status, _ = run(*words.split())
    assert "nowhere'" in status
    assert "\n" not in status
