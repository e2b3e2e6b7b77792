"""The explorer over a server that is stopped in the middle, and among many browsers."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from starlette.responses import PlainTextResponse

from polysem.client.explorer import asking
from polysem.proto.errors import DeadlineExceeded, NotFound, Overloaded

NOTHING = "the server says nothing: it is stopped, or the way to it is blocked"


@pytest.fixture(scope="module")
def server(index_folder, tmp_path_factory):
    """A server's process, and its address."""
    command = [sys.executable, "-m", "polysem.client.commands.cli", "serve", "--index", index_folder, "--port", "0"]
    command += ["--device", "cpu", "--state", tmp_path_factory.mktemp("state")]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment)
    line = next(line for line in process.stdout if line.startswith("listening on "))
    yield process, line.split()[2].rstrip(";")
    process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def explorer(server):
    """Its process, and a function that asks it: (path) to (status, body)."""
    command = [sys.executable, "-m", "polysem.client.commands.cli", "explore", "--server", server[1], "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    port = int(process.stdout.readline().split()[0].rsplit(":", 1)[1].strip("/"))

    def ask(path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    yield process, ask
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_stopped_server_is_told_and_static_files_come_meanwhile_and_sigterm_ends_it(server, explorer):
    process, ask = explorer
    assert ask("/api/neuron/0.1")[0] == 200
    server[0].send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(100) as browsers:
            pages = [browsers.submit(ask, f"/neuron/0.{number % 50}") for number in range(90)]
            assert ask("/static/neuron.js")[0] == 200
            assert {page.result()[0] for page in pages} == {202}  # in grey, and at once
            waiting = pages[0].result()[1]
            assert '<meta http-equiv="refresh"' in waiting  # of a browser without scripts
            ticket = re.search(r'data-until-ready="(\w+)"', waiting)[1]
            ready = browsers.submit(ask, f"/api/ready?ticket={ticket}")
            apis = [browsers.submit(ask, f"/api/neuron/0.{number % 50}") for number in range(9)]
            assert json.loads(ready.result()[1]) == {"ready": False, "away": True}
            assert {api.result()[0] for api in apis} == {502}
            status, body = ask("/neuron/0.0")
            assert (status, NOTHING in body) == (502, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) is not None
    finally:
        server[0].send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/neuron/0.1/example/{'9' * 5000}", 404),
        (f"/api/neuron/0.1/importance/{'9' * 5000}", 404),
        (f"/api/neuron/0.1/similar/{'9' * 5000}", 404),
        (f"/api/neuron/0.1/example/{'0' * 5000}", 200),
        ("/api/neuron/0.1/example/-1", 404),
        ("/api/neuron/0.1/example/٣", 404),
        (f"/neuron/0.{'9' * 5000}", 400),
        (f"/neuron/{'9' * 5000}.1", 400),
        (f"/?page={'9' * 5000}", 400),
        ("/?page=inf", 400),
        ("/?page=nan", 400),
        (f"/?least_n_examples={'9' * 5000}", 200),
        (f"/neuron/0.1?distance_threshold={'9' * 5000}", 400),
        (f"/neuron/0.1?distance_threshold=0.{'0' * 5000}1", 200),
        ("/neuron/0.1?distance_threshold=nan", 400),
    ],
)
def test_huge_numbers_in_addresses_are_answered_in_words(explorer, path, status):
    while (found := explorer[1](quote(path, safe="/?=&")))[0] == 202:  # a page in grey
        time.sleep(0.2)
    status_found, body = found
    assert (status_found, len(body) < 20_000 or status_found == 200) == (status, True), body[:300]
    assert "failed at this" not in body


def test_one_address_asked_by_many_is_one_question():
    asked, go = [], threading.Event()

    def ask():
        asked.append(1)
        go.wait(10)
        return PlainTextResponse("an answer")

    async def main():
        one = asking.Asking(lambda timeout_s: True)
        waiting = [asyncio.create_task(one.answer("/", ask)) for _ in range(50)]
        await asyncio.sleep(0.05)
        go.set()
        answers = await asyncio.gather(*waiting)
        one.close()
        return answers

    answers = asyncio.run(main())
    assert len(asked) == 1
    assert {answer.body for answer in answers} == {b"an answer"}
    assert len({id(answer) for answer in answers}) == 50


def test_an_answer_that_took_long_is_kept_for_the_browsers_that_wait_for_it():
    asked, go = [], threading.Event()

    def ask():
        asked.append(1)
        go.wait(10)
        if len(asked) > 1:
            raise NotFound("there is none")
        return PlainTextResponse("an answer")

    async def main():
        one = asking.Asking(lambda timeout_s: True)
        assert await one.soon("/", ask, 0.01) is None
        go.set()
        assert await one.ready(asking.ticket("/"))
        assert [(await one.soon("/", ask, 0.0)).body for _ in range(2)] == [b"an answer"] * 2
        go.clear()
        assert await one.soon("/other", ask, 0.0) is None
        go.set()
        assert await one.ready(asking.ticket("/other"))
        with pytest.raises(NotFound):
            await one.soon("/other", ask, 0.0)
        assert await one.ready(asking.ticket("/other"))  # none is under way: it is asked anew
        one.close()

    asyncio.run(main())
    assert len(asked) == 2


def test_work_that_takes_long_is_told_and_goes_on(monkeypatch):
    monkeypatch.setattr(asking, "PATIENCE_S", 0.05)
    monkeypatch.setattr(asking, "MAX_WAITING", 1)
    go = threading.Event()

    def ask():
        go.wait(10)
        return PlainTextResponse("an answer")

    async def main():
        one = asking.Asking(lambda timeout_s: True)
        with pytest.raises(DeadlineExceeded, match="the server is still at work on this"):
            await one.answer("/", ask)
        with pytest.raises(Overloaded, match="1 questions of other browsers wait already"):
            await one.answer("/other", ask)
        go.set()
        monkeypatch.setattr(asking, "PATIENCE_S", 10)
        assert (await one.answer("/", ask)).body == b"an answer"
        one.close()

    asyncio.run(main())
