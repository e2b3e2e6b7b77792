"""Version 0.1.0's client and index with today's server: they work, and every value means what it meant.

`make.py` says what lies here. Where a later version answers otherwise on purpose, ON_PURPOSE gives the reason.
"""

import json
import math
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import polysem.server
from polysem.client import Client
from polysem.server.index.format import open_index, verify

from . import ask

HERE = Path(__file__).parent
WHEEL = HERE / "polysem-0.1.0-py3-none-any.whl"
# Where the model lies, which version answers, what the machine's owner allows.
OF_THE_SERVER = {"model_id", "software_version", "info.version", "info.model.id", "info.limits"}
ON_PURPOSE: dict[str, str] = {}
RENAMED = {"place": "example"}  # fields of today's client, which still answers to the old name


@pytest.fixture(scope="module")
def recorded():
    return json.loads((HERE / "answers.json").read_text())


@pytest.fixture(scope="module")
def server():
    """Today's, with that index."""
    with polysem.server.local(HERE / "index", model=str(HERE / "checkpoint"), device="cpu") as client:
        yield client.target


def differences(now, then, path=""):
    """Paths at which two answers differ by more than rounding, with both values."""
    name = path.rpartition(".")[2]
    if name in OF_THE_SERVER or path in OF_THE_SERVER or any(path.startswith(known) for known in ON_PURPOSE):
        return
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then:
            found = now.get(key, now.get(RENAMED.get(key, ""), "nothing"))
            yield from differences(found, then[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(then, list) and isinstance(now, list) and len(now) == len(then):
        for i, (one, other) in enumerate(zip(now, then, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif isinstance(then, float) and isinstance(now, int | float):
        if not math.isclose(now, then, rel_tol=1e-4, abs_tol=2e-5):
            yield path, now, then
    elif now != then:
        yield path, now, then


def test_the_comparison_sees_a_changed_value(recorded):
    changed = json.loads(json.dumps(recorded))
    changed["hac"][3]["labels"][2] += 1
    changed["statistics"][0]["mean_activation"] *= 1.01
    del changed["explain"][0]["position"]
    assert [path for path, _, _ in differences(changed, recorded)] == [
        "hac[3].labels[2]",
        "statistics[0].mean_activation",
        "explain[0].position",
    ]


def test_that_client_gets_the_same_answers_from_todays_server(server, recorded, tmp_path):
    """Without site (-S) no editable install stands in its way."""
    zipfile.ZipFile(WHEEL).extractall(tmp_path)
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    ran = subprocess.run(
        [sys.executable, "-S", HERE / "ask.py", server],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *installed]), "PYTHONUTF8": "1"},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    answered = json.loads(ran.stdout)
    assert answered["client"].startswith(str(tmp_path))
    assert list(differences(answered["answers"], recorded)) == []


def test_todays_client_gets_the_same_answers_about_that_index(server, recorded):
    assert list(differences(ask.answers(server), recorded)) == []


def test_every_byte_of_that_index_is_still_checked():
    index = open_index(HERE / "index")
    assert verify(index) > 500_000
    assert index.info.software_version == "0.1.0"


def test_clusters_of_that_index_have_names_without_scores(server):
    with Client(server) as client:
        found = client.labels("0.0-9")
        assert all(one.text and one.score is one.null_score is one.recall is None for one in found)
        assert len(found) > 10
