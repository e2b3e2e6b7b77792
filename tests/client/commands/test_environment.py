"""Surroundings that the command does not choose: what its output can show, pipes, full disks, Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest


@pytest.fixture
def polysem(polysem_client, tmp_path):
    def run(*arguments, out=subprocess.PIPE, **environment):
        return subprocess.run(
            [sys.executable, "-m", "polysem", *map(str, arguments)],
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=os.environ | {"POLYSEM_SERVER": polysem_client.target, "COLUMNS": "100"} | environment,
        )

    return run


# ---- What the terminal cannot show


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "arguments",
    [["cluster", "1.5"], ["examples", "1.5"], ["explain", "日本 café 😀", "1.5"], ["neurons"], ["cluster", "7.é"]],
)
def test_output_in_any_encoding_is_no_traceback(polysem, arguments, encoding):
    done = polysem(*arguments, PYTHONIOENCODING=encoding)
    assert done.returncode == (1 if "7.é" in arguments else 0), done.stderr
    shown = (done.stdout + done.stderr).decode("utf-8" if encoding == "ascii" else encoding)  # click's echo prefers it
    assert shown.strip()
    assert "Traceback" not in shown


def test_what_ascii_lacks_is_shown_by_what_looks_like_it(polysem):
    drawn = polysem("cluster", "1.5", PYTHONIOENCODING="ascii").stdout.decode("ascii")
    assert "|" in drawn
    assert "-+" in drawn


# ---- Pipes and disks


def test_a_pipe_that_has_seen_enough_is_no_traceback(polysem):
    near, far = os.pipe()
    os.close(near)
    with open(far, "wb") as closed:
        done = polysem("cluster", "*", "--json", out=closed)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_onto_a_full_disk_is_a_sentence(polysem):
    with open("/dev/full", "wb") as full:
        done = polysem("info", out=full)
    assert (done.returncode, done.stderr) == (1, b"polysem: cannot write the output: No space left on device\n")


def test_output_that_was_closed_is_no_traceback(polysem_client):
    command = f'exec "{sys.executable}" -m polysem info --server {polysem_client.target} >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True)
    assert done.stderr == b""


# ---- Ctrl-C


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3, 0.5])
def test_ctrl_c_while_the_command_starts_is_no_traceback(after_s):
    """Python's own start is not ours: a signal before it has set up its handler ends it without a word, too."""
    started = [sys.executable, "-c", "import sys; sys.argv[1:] = ['cluster', '*', '--json']\n"
               "print(flush=True)\nfrom polysem.__main__ import main\nmain()"]  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection and never answers
        environment = os.environ | {"POLYSEM_SERVER": f"127.0.0.1:{silent.getsockname()[1]}"}
        with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
            child.stdout.readline()
            time.sleep(after_s)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate()
    assert child.returncode in (130, -signal.SIGINT)
    assert b"Traceback" not in said
