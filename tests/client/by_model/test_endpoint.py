"""An OpenAI-compatible endpoint: what is sent, what comes back, and what goes wrong, in a sentence without the key."""

import json

import pytest

from polysem.client.by_model import endpoint as endpoints
from polysem.client.by_model.asking import Asking, Budget, prompt
from polysem.client.by_model.endpoint import Endpoint, ask
from polysem.proto.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Overloaded,
    PolysemError,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)

from .conftest import KEY, completion


def test_a_prompt_goes_out_as_the_protocol_has_it(model):
    model.answer = lambda prompt: "decorators"
    assert ask(model.endpoint(), "what?", 60) == ("decorators", 100)
    ((path, headers, body),) = model.requests
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    message = {"role": "user", "content": "what?"}
    assert body == {"model": "tiny", "messages": [message], "temperature": 0, "max_tokens": 60}


def test_without_a_key_none_is_sent(model):
    model.answer = lambda prompt: "x"
    ask(model.endpoint()._replace(key=""), "what?", 60)
    assert "Authorization" not in model.requests[0][1]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((401, {}, b"bad key " + KEY.encode()), Unauthenticated, r"refuses the key \(401\)"),
        (
            (404, {}, b"no model tiny, key " + KEY.encode()),
            FailedPrecondition,
            r"refused the call \(404\): no model tiny",
        ),
        ((200, {}, b"<html>"), FailedPrecondition, "answered no chat completion"),
        ((200, {}, b"[]"), FailedPrecondition, "answered no chat completion"),
        ((200, {}, b'{"choices": []}'), FailedPrecondition, "answered no chat completion"),
        ((200, {}, b'{"choices": [{"message": {"content": 7}}]}'), FailedPrecondition, "answered no chat completion"),
        ((200, {}, b" " * (endpoints.MAX_BYTES + 9)), FailedPrecondition, "answered more than"),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), FailedPrecondition, r"refused the call \(307\)"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), FailedPrecondition, r"refused the call \(302\)"),
    ],
)
def test_what_is_no_answer_is_told_without_the_key(model, answer, error, words):
    model.answer = lambda prompt: answer
    with pytest.raises(error, match=words) as raised:
        ask(model.endpoint(), "what?", 60)
    assert KEY not in str(raised.value)
    assert len(model.requests) == 1


def test_a_busy_endpoint_is_asked_again_and_then_told(model):
    busy = (429, {"Retry-After": "0"}, b"slow down")
    answers = [busy, (503, {"Retry-After": "0"}, b""), "at last"]
    model.answer = lambda prompt: answers.pop(0)
    assert ask(model.endpoint(), "what?", 60).text == "at last"
    model.answer = lambda prompt: busy
    with pytest.raises(Overloaded, match=r"is busy \(429\): slow down"):
        ask(model.endpoint(), "what?", 60)
    assert len(model.requests) == 3 + endpoints.TRIES


def test_one_that_says_nothing_or_is_not_there_is_told(model):
    model.answer = lambda prompt: 1.0
    with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.2 s; raise --model-timeout"):
        ask(model.endpoint(0.2), "what?", 60)
    with pytest.raises(Unavailable, match=r"no model answers at 127\.0\.0\.1:1"):
        ask(Endpoint("http://127.0.0.1:1/v1", "tiny"), "what?", 60)


def test_a_refusal_is_an_empty_answer(model):
    refusal = {"choices": [{"message": {"content": None, "refusal": "I cannot"}}]}
    model.answer = lambda prompt: (200, {}, json.dumps(refusal).encode())
    assert ask(model.endpoint(), "what?", 60).text == ""


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "file:///etc/passwd", "ftp://x/v1", "http://", "http://a:b@x/v1"]
)
def test_an_address_that_cannot_be_is_told(url):
    with pytest.raises(InvalidArgument, match="base URL"):
        endpoints.check(Endpoint(url, "tiny"))
    with pytest.raises(InvalidArgument, match="no model is named"):
        endpoints.check(Endpoint("http://127.0.0.1/v1", " "))


# ---- Budget and answers that are kept


def test_what_was_answered_is_not_asked_again_by_another_run(model, tmp_path):
    model.answer = lambda prompt: prompt.upper()
    for n in range(2):
        asking = Asking(model.endpoint(), Budget(10, 10_000), tmp_path / "answers.sqlite")
        assert [asking.ask(text, 60) for text in ("one", "two")] == ["ONE", "TWO"]
        assert (asking.n_calls, asking.n_tokens, asking.n_kept) == ((2, 200, 0), (0, 0, 2))[n]
        asking.close()
    assert model.prompts == ["one", "two"]


@pytest.mark.parametrize(("budget", "words"), [(Budget(2, 9999), "2 calls is used up"), (Budget(9, 150), "150 tokens")])
def test_a_budget_ends_a_run_and_the_next_goes_on(model, tmp_path, budget, words):
    model.answer = lambda prompt: (200, {}, completion("x"))
    for n_asked in (2, 4):
        asking = Asking(model.endpoint(), budget, tmp_path / "answers.sqlite")
        questions = map(lambda i, to=asking: to.ask(f"question {i}", 60), range(10))
        with pytest.raises(QuotaExceeded, match=words):
            list(questions)
        asking.close()
        assert len(model.requests) == n_asked


def test_answers_that_cannot_be_kept_are_told(model, tmp_path):
    (tmp_path / "file").write_text("x" * 5000)
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PolysemError, match="give another --cache"):
            Asking(model.endpoint(), Budget(1, 1), path)


def test_texts_of_a_prompt_may_have_braces():
    assert "1. {n} {}" in prompt("detect", name="x", texts="1. {n} {}", n=1)
