"""Who may ask: keys in a file of the server's state folder, each with an owner, a class and caps.

keys.json       what `polysem keys` writes: of each key its sha256 only (a key is 256 random bits, no password)
key-usage.json  what the server writes: when each was last used, and what it has had served today

Both are small, replaced whole, and safe on a network file system. A running server looks at the file's stamp on each
call, so a key that is revoked is out at once.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, Unauthenticated
from polysem.server.serving.callers import Account, Caller, Class

KEYS, USAGE = "keys.json", "key-usage.json"
PREFIX = "psm_"
USAGE_EVERY_S = 5.0


@dataclass(frozen=True)
class Key:
    """A key as it is kept; None: no cap. Times are ISO 8601, UTC."""

    id: str
    owner: str
    class_: Class
    sha256: str
    created: str
    max_in_flight: int | None = None
    daily_quota: float | None = None
    revoked: str | None = None
    last_used: str | None = None  # kept in key-usage.json


def create(
    state: Path,
    owner: str,
    class_: Class = "interactive",
    max_in_flight: int | None = None,
    daily_quota: float | None = None,
) -> tuple[Key, str]:
    """A new key and its secret, which is kept nowhere. Raises InvalidArgument."""
    if not owner.strip() or not owner.isprintable():
        raise InvalidArgument(f"the owner must be a name, not {owner!r}", "owner")
    id_ = secrets.token_hex(4)
    token = f"{PREFIX}{id_}_{secrets.token_urlsafe(32)}"
    key = Key(id_, owner.strip(), class_, _sha256(token), _now(), max_in_flight, daily_quota)
    with _changing(state) as keys:
        keys[id_] = key
    return key, token


def revoke(state: Path, id_: str) -> Key:
    """Let the key in no more. Raises NotFound."""
    with _changing(state) as keys:
        if id_ not in keys:
            raise NotFound(f"there is no key {id_!r} in {state / KEYS}; see `polysem keys list`")
        if keys[id_].revoked is None:
            keys[id_] = replace(keys[id_], revoked=_now())
        return keys[id_]


def listed(state: Path) -> list[Key]:
    """All keys, oldest first, with their last use. Raises FailedPrecondition for a damaged file."""
    usage = _read(state / USAGE)
    return [replace(key, last_used=usage.get(key.id, {}).get("last_used")) for key in _keys(state / KEYS).values()]


class Keys:
    """The keys of a running server. Raises FailedPrecondition where there are none to let anybody in."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}
        self._accounts: dict[str, Account] = {}
        self._usage = _read(state / USAGE)
        self._written = time.monotonic()
        self._look()
        if not any(key.revoked is None for key in self._keys.values()):
            raise FailedPrecondition(
                f"nobody could come in: there is no key in {state / KEYS}; make one with "
                f"`polysem keys create --owner NAME --state {state}`"
            )

    def caller(self, token: str) -> Caller:
        """Whose key it is. Raises Unauthenticated."""
        self._look()
        parts = token.split("_", 2)
        key = self._keys.get(parts[1]) if len(parts) == 3 else None
        if key is None or not hmac.compare_digest(key.sha256, _sha256(token)):
            raise Unauthenticated("this key is not one of this server's; ask whoever runs it for one")
        self._check(key)
        self._note(key)
        return Caller(key.id, key.id, key.class_, key.max_in_flight, self._account(key))

    def job_of(self, id_: str) -> Caller:
        """Whoever holds the key of that id, as the one for whom a job works. Raises Unauthenticated. From any thread.

        A job is one thing, so what it asks at once is not capped, nor counted among what its key has in flight.
        """
        self.check(id_)
        key = self._keys[id_]
        return Caller(key.id, key.id, "bulk", None, self._account(key))

    def check(self, id_: str) -> None:
        """Raises Unauthenticated where the key has been revoked."""
        self._look()
        self._check(self._keys.get(id_))

    def _check(self, key: Key | None) -> None:
        if key is None or key.revoked is not None:
            when = f" ({key.revoked})" if key else ""
            raise Unauthenticated(f"this key has been revoked{when}; ask whoever runs the server for another")

    def _look(self) -> None:
        """Read the keys anew if their file has changed."""
        stamp = _stamp(self._state / KEYS)
        if stamp != self._stamp:
            self._keys, self._stamp = _keys(self._state / KEYS), stamp

    def _account(self, key: Key) -> Account:
        known = self._usage.get(key.id, {})
        begun = Account(key.daily_quota, known.get("day", ""), known.get("cost", 0.0))
        account = self._accounts.setdefault(key.id, begun)
        account.daily_quota = key.daily_quota
        return account

    def _note(self, key: Key) -> None:
        self._usage.setdefault(key.id, {})["last_used"] = _now()
        if time.monotonic() - self._written > USAGE_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Write the usage; at most some seconds of it are lost if the server is killed."""
        for id_, account in list(self._accounts.items()):
            self._usage.setdefault(id_, {}).update(day=_now()[:10], cost=account.spent())
        _write(self._state / USAGE, self._usage)
        self._written = time.monotonic()


@contextlib.contextmanager
def _changing(state: Path) -> Iterator[dict[str, Key]]:
    """The keys, to be changed; one process at a time."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state / "keys.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FailedPrecondition(
            f"the state folder {state} cannot be written: {error.strerror}; choose another --state"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = _keys(state / KEYS)
        yield keys
        _write(
            state / KEYS, {id_: {n: v for n, v in asdict(key).items() if n != "last_used"} for id_, key in keys.items()}
        )
    finally:
        os.close(lock)


def _keys(path: Path) -> dict[str, Key]:
    try:
        return {id_: Key(**fields) for id_, fields in _read(path).items()}
    except (TypeError, AttributeError) as error:
        raise FailedPrecondition(
            f"{path} holds no keys of this version; restore it from a backup, or remove it"
        ) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"{path} cannot be read ({error}); restore it from a backup, or remove it") from error


def _write(path: Path, value: Any) -> None:
    """Replace the file whole; only its owner may read it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
