"""An OpenAI-compatible endpoint: one chat completion at a time, over HTTP.

The key goes to the endpoint alone: redirects are not followed, and no error shows it.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from polysem.proto.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Overloaded,
    PolysemError,
    Unauthenticated,
    Unavailable,
)

MAX_BYTES = 1 << 20  # of an answer
TRIES = 4  # of a call that a busy endpoint refuses
LONGEST_WAIT_S = 60.0
BUSY = (429, 500, 502, 503, 529)


class Endpoint(NamedTuple):
    """The place where a model is asked. key: "" for none. timeout_s: of one call."""

    base_url: str
    model: str
    key: str = ""
    timeout_s: float = 120.0


class Reply(NamedTuple):
    """Answer of a model. text: "" where it refused. n_tokens: of prompt and answer, as counted there, or by length."""

    text: str
    n_tokens: int


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:  # the 3xx becomes an error
        return None


def check(endpoint: Endpoint) -> None:
    """Raise InvalidArgument for an address that is none, or no model."""
    parts = urlsplit(endpoint.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(
            f"the base URL is {endpoint.base_url[:80]!r}; give one such as http://127.0.0.1:8000/v1", "base_url"
        )
    if parts.username or parts.password:
        raise InvalidArgument("the base URL has a password in it; give the key in the environment", "base_url")
    if not endpoint.model.strip():
        raise InvalidArgument("no model is named; give the endpoint's name of it with --model", "model")


def body(endpoint: Endpoint, prompt: str, max_tokens: int) -> dict[str, Any]:
    """Return what is sent to ask a prompt."""
    return {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }


def ask(endpoint: Endpoint, prompt: str, max_tokens: int) -> Reply:
    """Return the model's answer; a busy endpoint is asked up to four times.

    Raises Unavailable, DeadlineExceeded, Unauthenticated, Overloaded, and FailedPrecondition for an endpoint that knows
    no such model, or speaks something else.
    """
    data = json.dumps(body(endpoint, prompt, max_tokens)).encode()
    for number in range(TRIES):
        try:
            return _reply(_sent(endpoint, data), prompt)
        except Overloaded as error:
            if number == TRIES - 1:
                raise
            time.sleep(min(error.retry_after_s, LONGEST_WAIT_S))
    raise AssertionError


def _sent(endpoint: Endpoint, data: bytes) -> Any:
    headers = {"Content-Type": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    address = f"{endpoint.base_url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(address, data, headers)
    where = urlsplit(endpoint.base_url).netloc
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=endpoint.timeout_s) as answer:
            read = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error, endpoint, where) from None
    except TimeoutError:
        raise DeadlineExceeded(
            f"{where} did not answer within {endpoint.timeout_s:g} s; raise --model-timeout"
        ) from None
    except (OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise DeadlineExceeded(
                f"{where} did not answer within {endpoint.timeout_s:g} s; raise --model-timeout"
            ) from None
        raise Unavailable(f"no model answers at {where}: {getattr(error, 'reason', error)}") from None
    if len(read) > MAX_BYTES:
        raise FailedPrecondition(f"{where} answered more than {MAX_BYTES:,} bytes, which is no chat completion")
    try:
        return json.loads(read)
    except ValueError:
        raise _nonsense(where) from None


def _refused(error: urllib.error.HTTPError, endpoint: Endpoint, where: str) -> PolysemError:
    said = error.read(2000).decode("utf-8", "replace").replace(endpoint.key or "\0", "…")
    said = " ".join("".join(c if c.isprintable() else " " for c in said).split())[:200]
    if error.code in (401, 403):
        return Unauthenticated(f"{where} refuses the key ({error.code}): set the right one in the environment")
    if error.code in BUSY:
        wait = error.headers.get("Retry-After") or ""
        return Overloaded(f"{where} is busy ({error.code}): {said}", float(wait) if wait.isdecimal() else 2.0)
    return FailedPrecondition(f"{where} refused the call ({error.code}): {said}")


def _reply(found: Any, prompt: str) -> Reply:
    try:
        message = found["choices"][0]["message"]
        text = "" if message.get("refusal") else message.get("content") or ""
        assert isinstance(text, str)
    except (LookupError, TypeError, AttributeError, AssertionError):
        raise _nonsense("the endpoint") from None
    usage = found.get("usage")
    counted = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return Reply(text, counted if isinstance(counted, int) and counted > 0 else (len(prompt) + len(text)) // 3)


def _nonsense(where: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{where} answered no chat completion; does --base-url end in /v1, as its documentation says?"
    )
