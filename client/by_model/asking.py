"""Questions to a model within a budget; what was answered once is not asked again.

Answers are kept in a file by the hash of model and prompt, so a run that was stopped goes on, and a prompt of another
version is another question.
"""

import hashlib
import json
import re
import sqlite3
from pathlib import Path
from typing import NamedTuple

from polysem.client.by_model import endpoint as endpoints
from polysem.client.by_model.endpoint import Endpoint, Reply
from polysem.proto.errors import FailedPrecondition, QuotaExceeded

PROMPTS = Path(__file__).parent / "prompts"
VERSION = 2


class Budget(NamedTuple):
    """The most calls and tokens (of prompts and answers together) of a run."""

    calls: int
    tokens: int


class Asking:
    """A model that is asked within a budget. n_calls and n_tokens: spent; n_kept: answers that were there already.

    Raises FailedPrecondition where the file cannot be used.
    """

    def __init__(self, endpoint: Endpoint, budget: Budget, file: Path) -> None:
        endpoints.check(endpoint)
        self._endpoint, self._budget = endpoint, budget
        self.n_calls = self.n_tokens = self.n_kept = 0
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(file, isolation_level=None)
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (question TEXT PRIMARY KEY, text TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise FailedPrecondition(
                f"the answers in {str(file)!r} cannot be used ({error}); give another --cache"
            ) from error

    def close(self) -> None:
        self._db.close()

    def ask(self, prompt: str, max_tokens: int) -> str:
        """Return the answer, "" for a refusal. Raises QuotaExceeded beyond the budget, and as `endpoint.ask`."""
        key = _key(self._endpoint.model, prompt, max_tokens)
        if (found := self._db.execute("SELECT text FROM answers WHERE question = ?", [key]).fetchone()) is not None:
            self.n_kept += 1
            return str(found[0])
        self._check()
        self.n_calls += 1
        reply: Reply = endpoints.ask(self._endpoint, prompt, max_tokens)
        self.n_tokens += reply.n_tokens
        if reply.text:  # a refusal is asked again by the next run
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", [key, reply.text])
        return reply.text

    def _check(self) -> None:
        if self.n_calls >= self._budget.calls:
            raise QuotaExceeded(f"the budget of {self._budget.calls:,} calls is used up; the same command goes on", 0)
        if self.n_tokens >= self._budget.tokens:
            raise QuotaExceeded(f"the budget of {self._budget.tokens:,} tokens is used up; the same command goes on", 0)


def _key(model: str, prompt: str, max_tokens: int) -> str:
    return hashlib.sha256(json.dumps([model, prompt, max_tokens]).encode()).hexdigest()


def prompt(kind: str, /, **values: object) -> str:
    """Return the prompt of a kind in this version, with its values, which may have braces of their own."""
    text = (PROMPTS / f"{kind}-{VERSION}.txt").read_text("utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: str(values[match[1]]), text)
