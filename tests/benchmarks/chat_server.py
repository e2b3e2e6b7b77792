"""Serves a checkpoint as an OpenAI-compatible endpoint on loopback, for names by a language model.

    python tests/benchmarks/chat_server.py build/smollm2 [--port 8000] [--threads 2]

POST /v1/chat/completions answers what Polysem asks and no more, one call at a time: messages by the checkpoint's chat
template, greedy decoding (temperature 0), max_tokens, and usage in tokens. GPUs and batches are for real servers.
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import given
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PATH = "/v1/chat/completions"


class Refused(Exception):
    """status: an HTTP status; the message is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Completion(NamedTuple):
    """An answer, the tokens of prompt and answer, and whether max_tokens cut it."""

    text: str
    n_prompt: int
    n_answer: int
    cut: bool


class Chat:
    """A checkpoint that answers messages. Any thread may call; one call runs at a time."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._room = self._model.config.max_position_embeddings
        self._using = threading.Lock()

    def answer(self, messages: list[dict[str, str]], max_tokens: int) -> Completion:
        """Return the likeliest token after token. Raises Refused where the model has no room for both."""
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        asked = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        n_prompt = asked["input_ids"].shape[1]
        if n_prompt + max_tokens > self._room:
            raise Refused(
                400, f"{n_prompt:,} tokens and {max_tokens:,} to answer, where the model reads {self._room:,}"
            )
        with self._using, torch.inference_mode():
            found = self._model.generate(
                **asked, do_sample=False, temperature=None, top_p=None, max_new_tokens=max_tokens
            )
        tokens = found[0, n_prompt:]
        cut = len(tokens) == max_tokens and int(tokens[-1]) != self._tokenizer.eos_token_id
        return Completion(self._tokenizer.decode(tokens, skip_special_tokens=True), n_prompt, len(tokens), cut)


def completion(chat: Chat, body: Any) -> dict[str, Any]:
    """Return the answer to a request's body. Raises Refused."""
    try:
        messages = [{"role": str(one["role"]), "content": str(one["content"])} for one in body["messages"]]
        model, temperature, max_tokens = body["model"], body.get("temperature", 0), int(body["max_tokens"])
    except (LookupError, TypeError, ValueError) as error:
        raise Refused(400, f"a request has model, messages and max_tokens ({error!r})") from error
    if model != chat.name:
        raise Refused(404, f"there is no model {model!r} here; it is {chat.name}")
    if temperature != 0 or max_tokens < 1:
        raise Refused(400, "answers here have temperature 0, and one token at least")
    found = chat.answer(messages, max_tokens)
    usage = {
        "prompt_tokens": found.n_prompt,
        "completion_tokens": found.n_answer,
        "total_tokens": found.n_prompt + found.n_answer,
    }
    message = {"role": "assistant", "content": found.text}
    choice = {"index": 0, "message": message, "finish_reason": "length" if found.cut else "stop"}
    return {
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def server(chat: Chat, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the model, on a free port for 0; the caller runs it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                if self.path != PATH:
                    raise Refused(404, f"there is {PATH} here, not {self.path[:80]!r}")
                try:
                    body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                except ValueError:
                    raise Refused(400, "the body is not JSON") from None
                status, said = 200, completion(chat, body)
            except Refused as refused:
                status, said = refused.status, {"error": {"message": str(refused)}}
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=given.folder)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    chat = Chat(asked.checkpoint)
    with server(chat, asked.port) as serving:
        print(f"{chat.name} answers at http://127.0.0.1:{serving.server_port}/v1", flush=True)
        serving.serve_forever()


if __name__ == "__main__":
    main()
