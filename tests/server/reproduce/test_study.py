"""A study of the small index: its files, its report, what goes on and what is refused; and one of a model on a hub."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from polysem.client.measuring import measurements, table1
from polysem.client.measuring.paired import Difference
from polysem.proto.errors import FailedPrecondition
from polysem.server.index.format import file_sha256
from polysem.server.reproduce import report
from polysem.server.reproduce.study import FILES, Machine, Study, run, sample

from ..corpus import hub as hubs

CPU = Machine("cpu")


@pytest.fixture(scope="module")
def asked(index_folder):
    return Study(index=str(index_folder), n_neurons=12, n_tested=5, n_null=19, n_mixtures=1, n_suggested=0)


@pytest.fixture(scope="module")
def study(asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    run(asked, out, CPU)
    return out


def claims_of(study):
    return json.loads((study / "report.json").read_text())["claims"]


def test_a_study_leaves_its_files_with_their_provenance(study, index_folder):
    about = json.loads((study / "study.json").read_text())
    assert sorted(path.name for path in study.iterdir()) == sorted([*FILES, "lock", "study.json"])
    assert about["sha256"] == {name: file_sha256(study / name) for name in FILES}
    assert about["index"]["name"] == index_folder.name
    assert (about["study"]["seed"], about["device"]) == (0, "cpu")
    assert set(about["seconds"]) == {*FILES, "report.md"} - {"report.json"}
    assert about["software"]["polysem"]


def test_every_mode_and_frame_is_measured_with_both_controls(study):
    rows = table1.rows(measurements.read(study / "table1.parquet"))
    assert len(rows) == 4 * 2 * 4
    assert {(row.embedding, row.layer_norm, row.frame) for row in rows} >= {
        ("permuted", "raw", "own"),
        ("other", "folded", "standardised"),
    }
    assert all(row.numbers["matched_silhouette"].n_paired for row in rows)
    assert len(claims_of(study)) == 3 * 5 * 8


def test_each_claim_is_the_difference_of_its_rows(study):
    rows = table1.rows(measurements.read(study / "table1.parquet"))
    neurons = {(row.layer_norm, row.frame): row for row in rows if row.embedding == "neuron"}
    for claim in claims_of(study):
        difference = neurons[claim["layer_norm"], claim["frame"]].differences[claim["against"]][claim["metric"]]
        assert (claim["median"], claim["low"], claim["high"]) == difference[:3]


def test_the_report_says_in_words_what_its_tables_say(study):
    text = (study / "report.md").read_text()
    assert "| paper, GPT2-small | neuron | 0.21 | 0.73 |" in text
    (first,) = (line for line in text.splitlines() if "claim as it was made" in line)
    claims = {claim["metric"]: claim for claim in claims_of(study)
              if (claim["against"], claim["layer_norm"], claim["frame"]) == ("pre_mlp", "folded", "raw")}  # fmt: skip
    for metric in ("intra", "inter"):
        assert f"({metric}): *{claims[metric]['verdict']}* ({claims[metric]['median']:+.3f} [" in first
    assert "The paper's numbers are of GPT2-small; this is another model." in text
    tests = {test["embedding"]: test for test in json.loads((study / "report.json").read_text())["tests"]}
    assert f"of {tests['neuron']['n_tested']} neurons {tests['neuron']['share_p']:.0%} are not one Gaussian" in text
    assert tests["neuron"]["neuron_exceeds_it_by"]["median"] == 0


def test_tests_are_of_the_neurons_drawn_and_of_controls(study):
    tested = measurements.read(study / "tests.parquet")
    assert len(tested) == 2 * 5 * 4
    excess = {name: tested.column("excess_silhouette")[tested.column("embedding") == name] for name in report.NAMES}
    found = {test["embedding"]: test for test in json.loads((study / "report.json").read_text())["tests"]}
    for name, test in found.items():
        pairs = excess["neuron"] - excess[name]
        assert test["neuron_exceeds_it_by"]["median"] == pytest.approx(np.nanmedian(pairs))
        assert test["n_tested"] == (~np.isnan(excess[name])).sum()


def test_what_is_finished_is_not_done_again_and_what_is_lost_comes_back_the_same(study, asked):
    before = {name: (file_sha256(study / name), (study / name).stat().st_mtime_ns) for name in FILES}
    stages = set()
    (study / "planted.jsonl").unlink()
    run(asked, study, CPU, lambda stage, n, of: stages.add(stage))
    assert stages == {"planted"}
    assert {name: file_sha256(study / name) for name in FILES} == {name: sha for name, (sha, _) in before.items()}
    assert (study / "table1.parquet").stat().st_mtime_ns == before["table1.parquet"][1]


def test_a_study_that_is_stopped_in_each_stage_ends_with_the_same_files(study, asked, tmp_path):
    for at in ("table 1", "tests", "planted"):

        def stop(stage, n, of, at=at):
            if stage == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(asked, tmp_path / "out", CPU, stop)
        assert not (tmp_path / "out" / "report.md").exists()
    run(asked, tmp_path / "out", CPU)
    for name in FILES:
        assert file_sha256(tmp_path / "out" / name) == file_sha256(study / name)


def test_another_study_is_not_mixed_into_a_folder(study, asked, tmp_path, make_checkpoint):
    with pytest.raises(FailedPrecondition, match="begun with another n_null and seed; go on with the same arguments"):
        run(replace(asked, seed=1, n_null=39), study, CPU)
    with pytest.raises(FailedPrecondition, match="layer 7 is not in the index"):
        run(replace(asked, layers=(7,)), tmp_path / "absent", CPU)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FailedPrecondition, match=r"holds 'thesis.tex' and no study; choose another --out"):
        run(asked, tmp_path / "mine", CPU)
    begun = json.loads((study / "study.json").read_text())
    begun["index"]["sha256"] = "0" * 64
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "study.json").write_text(json.dumps(begun))
    with pytest.raises(FailedPrecondition, match="was begun on the index 000000000000…, and 'small' is another"):
        run(asked, tmp_path / "moved", CPU)


def test_a_sample_is_of_each_layer_and_by_the_seed(study):
    info = measurements.read(study / "table1.parquet").about["neurons"]
    assert len(info) == 2 * 12

    class Info:
        n_neurons_per_layer = 96

    assert sample(Info, (0, 1), 96, 0) == sample(Info, (0, 1), None, 3) == ["0.*", "1.*"]
    assert sample(Info, (1,), 12, 0) == [name for name in info if name.startswith("1.")]
    assert sample(Info, (1,), 12, 0) != sample(Info, (1,), 12, 1)


@pytest.mark.parametrize(
    ("low", "high", "sign", "words"),
    [
        (0.1, 0.2, 1, "holds"),
        (-0.2, -0.1, -1, "holds"),
        (0.1, 0.2, -1, "the other way round"),
        (-0.2, -0.1, 1, "the other way round"),
        (-0.1, 0.1, 1, "not settled"),
        (0.0, 0.1, 1, "not settled"),
        (None, None, 1, "undefined"),
    ],
)
def test_a_claim_holds_where_its_interval_lies_on_one_side_of_0(low, high, sign, words):
    assert report.verdict(Difference(low, low, high, 3, 0), sign) == words


def test_gpt2_s_width_and_a_corpus_are_read_from_a_hub(make_checkpoint, tmp_path):
    """The paper's way, by the command's defaults for a hub: GPT2-small's width, heads and positions, and 2 of its 12
    layers, of which few neurons are measured."""
    model = make_checkpoint("gpt2", n_embd=768, n_head=12, n_positions=1024)
    commit = tmp_path / "texts" / "data"
    commit.mkdir(parents=True)
    drawing = np.random.default_rng(0)
    texts = [" ".join(drawing.choice(["the", "model", "reads", "a", "text"], 4)) for _ in range(15)]
    parquet.write_table(pyarrow.table({"text": texts}), commit / "train-00000-of-00001.parquet")
    out = tmp_path / "study"
    arguments = ["--model", "lab/gpt2", "--corpus", "hf:lab/texts", "--max-documents", 9, "--out", out, "--neurons", 3]
    arguments += ["--tested", 2, "--null", 19, "--mixtures", 1, "--suggested", 0, "--device", "cpu"]
    with hubs.serving({"a" * 40: tmp_path / "texts"}, model) as hub:
        environment = os.environ | hub.environment | {"HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-W", "error", "-m", "polysem", "reproduce", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "## What holds and what does not" in done.stdout
    assert "- Planted truth: no neurons of the index 'index' can be mixed" in done.stdout  # of 9 texts
    assert f"report: {out / 'report.md'}" in done.stdout
    index = json.loads((out / "study.json").read_text())["index"]
    assert (index["model_id"], index["corpus_id"], index["n_contexts"]) == ("lab/gpt2", "hf:lab/texts", 9)
    assert (index["selection"]["rule"], index["selection"]["min_activation_fraction"]) == ("first", 0.75)
    assert (index["context_length"], index["n_neurons_per_layer"], index["windows"]) == (1024, 3072, "first")
