"""What commands say to type next works in the same terminal: by the same start, of the same server."""

import shlex
import sys

import click
import pytest
from click.testing import CliRunner

from polysem.client.commands import next_steps
from polysem.client.commands.options import asks_server


@click.command()
@asks_server
def asking(server, timeout_s, as_json):
    next_steps.say_of_server("jobs", "fetch", "1a", "--out", "my file.parquet")


def said(*typed, **environment):
    ran = CliRunner().invoke(asking, typed, env=environment)
    assert ran.exit_code == 0, ran.output
    return shlex.split(ran.stdout.removeprefix("next: "))


@pytest.mark.parametrize(
    ("argv0", "start"),
    [
        ("/src/polysem/__main__.py", [sys.executable, "-m", "polysem"]),
        ("/not on the path/polysem", ["/not on the path/polysem"]),
    ],
)
def test_it_is_started_as_this_process_was(monkeypatch, argv0, start):
    monkeypatch.setattr(sys, "argv", [argv0, "jobs"])
    assert said() == [*start, "jobs", "fetch", "1a", "--out", "my file.parquet"]


def test_a_command_on_the_path_is_named_by_its_name(monkeypatch, tmp_path):
    script = tmp_path / "polysem"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert next_steps.command() == "polysem"
    monkeypatch.setenv("PATH", "/nowhere")
    assert next_steps.command() == str(script)


@pytest.mark.parametrize(
    ("typed", "repeated"),
    [
        ([], []),
        (["--server", "box:1"], ["--server", "box:1"]),
        (["--server", "box:1", "--tls", "--token", "secret"], ["--server", "box:1", "--tls"]),
        (["--ca", "my ca.pem"], ["--ca", "my ca.pem"]),
        (["--timeout", "3", "--json"], []),
    ],
)
def test_the_server_that_was_typed_is_typed_again_and_no_key(typed, repeated):
    words = said(*typed)
    assert words[words.index("my file.parquet") + 1 :] == repeated


def test_what_the_environment_says_is_not_repeated():
    assert said(POLYSEM_SERVER="box:1", POLYSEM_CA="ca.pem", POLYSEM_TOKEN="secret")[-1] == "my file.parquet"
