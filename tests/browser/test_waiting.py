"""Pages that wait for the server: grey bars in the final layout, then words; never one without the other."""

import os
import signal
import threading

import pytest
import uvicorn

from polysem.client.explorer import app


@pytest.fixture
def hasty(server, monkeypatch):
    """The address of an explorer for which every answer takes too long, so that each page comes in grey first."""
    monkeypatch.setattr(app, "FRAME_S", 0.0)
    explorer = uvicorn.Server(uvicorn.Config(app.make_app(server), port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=explorer.run)
    thread.start()
    while not explorer.started:
        thread.join(0.05)
    yield f"http://127.0.0.1:{explorer.servers[0].sockets[0].getsockname()[1]}"
    explorer.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    ("path", "whole"), [("/", ".rows li, tbody tr"), ("/neuron/0.3", ".ps-card"), ("/text?text=tea", ".piece")]
)
def test_the_frame_comes_at_once_and_the_answer_in_its_place(page, hasty, path, whole):
    answers = []
    page.on("response", lambda answer: answer.url == hasty + path and answers.append(answer))
    page.goto(hasty + path)
    page.locator(whole).first.wait_for()
    assert [answer.status for answer in answers] == [202, 200]
    assert page.locator(".bone").count() == 0


def test_what_fails_is_told_though_its_page_came_in_grey(page, watched, hasty):
    page.goto(f"{hasty}/neuron/9.1")
    page.get_by_role("alert").wait_for()
    assert "there is no neuron 9.1" in page.get_by_role("alert").inner_text()
    watched.complaints.clear()  # Chromium notes the status of the page itself


def test_grey_bars_stand_for_an_answer_and_after_a_while_it_is_said_what_the_server_does(
    page, server, another_explorer
):
    neuron = max(server.cluster("0.*"), key=lambda n: n.metrics.n_examples)
    process, address = another_explorer(server.target)
    page.goto(f"{address}/neuron/{neuron.id}")
    card = page.locator(".ps-card").first
    os.kill(process.pid, signal.SIGSTOP)
    try:
        card.get_by_role("button", name="similar clusters").click()
        card.locator(".bone").first.wait_for()
        card.get_by_text("The server compares it with every cluster").wait_for()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    card.locator(".others li").first.wait_for()
    assert card.locator(".bone").count() == 0
