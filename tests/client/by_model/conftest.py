"""A server of our own that speaks the protocol of chat completions, over a real socket."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from polysem.client.by_model.endpoint import Endpoint

KEY = "sk-a-key-that-nobody-may-read"


class Model:
    """answer: makes of a prompt the text of a completion, or status, headers and body. requests: what came in."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: Callable[[str], Any] = honest

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for _, _, body in self.requests]

    def endpoint(self, timeout_s: float = 20.0) -> Endpoint:
        return Endpoint(self.url, "tiny", KEY, timeout_s)


def honest(prompt: str) -> str:
    """A model that names the commonest marked token, and finds it again."""
    texts = re.findall(r"^\d+\. .*$", prompt, re.MULTILINE)
    marks = [(re.search(r"<<(.*?)>>", text) or [""] * 2)[1].strip() for text in texts]
    if "short phrase" in prompt:
        return f"the token ‘{Counter(marks).most_common(1)[0][0]}’"
    wanted = (re.search(r"‘(.*?)’", prompt.splitlines()[0]) or [""] * 2)[1]
    return json.dumps([int(mark == wanted) for mark in marks])


def completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"message": message}], "usage": {"total_tokens": 100}}).encode()


@pytest.fixture
def model() -> Iterator[Model]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.requests.append((self.path, dict(self.headers), body))
            answer = found.answer(body["messages"][0]["content"])
            if isinstance(answer, float):
                time.sleep(answer)
                answer = "late"
            status, headers, data = answer if isinstance(answer, tuple) else (200, {}, completion(answer))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except OSError:  # the caller has left
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Model(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()
