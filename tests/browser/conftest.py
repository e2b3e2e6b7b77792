"""The pages in a real browser: Debian's Chromium, driven by Playwright, against a real explorer of a real server.

Without Chromium these tests are skipped; where POLYSEM_NEEDS_CHROMIUM is set, as in .ci/run, they fail.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import polysem.server
from polysem.client import Client
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import open_index
from polysem.server.indexing import builder
from polysem.server.questions import holding

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="session")
def hostile_corpus(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus, with markup and control characters in texts and names."""
    path = tmp_path_factory.mktemp("hostile") / "corpus.jsonl"
    lines = corpus_file.read_text().splitlines()
    for i in range(40):
        text = f"{SCRIPT} {i} </script> \u202e & \x1b[31m --> ]]> 日本 {'x' * (i % 7)}"
        lines.append(json.dumps({"id": f"{SCRIPT}{i}", "text": text}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def server(small_model: Any, hostile_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server over it; its indexes: hostile (the default), and few, with few examples a neuron.

    few holds layer 1 alone, both sides, and the tests of its neurons and clusters.
    """
    folder = tmp_path_factory.mktemp("indexes")
    recipes = {
        "hostile": builder.Recipe(Selection("first", 0.5, 60)),
        "few": builder.Recipe(Selection("top", 0.75, 24), sides="both", layers=(1,)),
    }
    for name, recipe in recipes.items():
        builder.build(small_model, Corpus(str(hostile_corpus)), folder / name, recipe)
    holding.hold(small_model, open_index(folder / "few"), 19, 0, clusters=True)
    with polysem.server.local(*(folder / name for name in recipes), device="cpu") as client:
        yield client


def explore(target: str) -> "tuple[subprocess.Popen[str], str]":
    """A process of `polysem explore`, and its address."""
    command = [
        sys.executable,
        "-m",
        "polysem.client.commands.cli",
        "explore",
        "--server",
        target,
        "--port",
        "0",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, json.loads(line)["address"].rstrip("/")


def stop(process: "subprocess.Popen[str]") -> str:
    """What it complained of."""
    process.terminate()
    return process.communicate(timeout=30)[1]


@pytest.fixture
def another_explorer() -> Iterator[Any]:
    """A function that starts an explorer of a server: its process and address."""
    started: list[Any] = []

    def start(target: str) -> Any:
        started.append(explore(target))
        return started[-1]

    yield start
    for process, _ in started:
        assert "Traceback" not in stop(process)


@pytest.fixture(scope="session")
def explorer(server: Client) -> Iterator[str]:
    process, address = explore(server.target)
    yield address
    assert "Traceback" not in stop(process)


@pytest.fixture(scope="module")  # Playwright keeps an event loop in this thread while it lives
def chromium() -> Iterator[Any]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("POLYSEM_NEEDS_CHROMIUM"):
            pytest.fail("no Chromium: apt-get install chromium")
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """What a page complained of, and where it went."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []


@pytest.fixture
def watched() -> Watched:
    return Watched()


def whole(page: Any, goes: Callable[..., Any]) -> Callable[..., Any]:
    """The same, and waits until a page that came in grey, as on a busy machine, has its answer."""

    def and_waits(*arguments: Any, **options: Any) -> Any:
        answer = goes(*arguments, **options)
        page.wait_for_function("() => !document.querySelector('[data-until-ready]')")
        return answer

    return and_waits


@pytest.fixture
def page(chromium: Any, watched: Watched) -> Iterator[Any]:
    """A fresh page; afterwards it must have complained of nothing, opened no dialog and asked loopback only."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, accept_downloads=True, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: message.type in ("error", "warning") and watched.complaints.append(message.text))
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (watched.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: watched.requests.append(request.url))
    for name in ("goto", "wait_for_url", "go_back", "reload"):
        setattr(page, name, whole(page, getattr(page, name)))
    yield page
    context.close()
    assert watched.complaints == []
    foreign = [
        u for u in watched.requests if not u.startswith(("http://127.0.0.1:", "file:", "data:", "blob:", "about:"))
    ]
    assert foreign == []
