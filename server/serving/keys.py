"""Who may ask: keys in a file of the server's state folder, each with an owner, a class and caps.

keys.json       what `polysem keys` writes: of each key its sha256 only (a key is 256 random bits, no password)
key-usage.json  what the server writes: when each was last used, and what it has had served today

Both are small, replaced whole, and safe on a network file system. A running server looks at the file's stamp on each
call, so a key that is revoked is out at once; where the file cannot be read, the keys that it held before still let in.
"""

import asyncio
import contextlib
import copy
import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, Unauthenticated
from polysem.server.serving import small_file
from polysem.server.serving.books import Books
from polysem.server.serving.callers import Account, Caller, Class
from polysem.server.serving.spare import Spare

KEYS, USAGE, LOCK = "keys.json", "key-usage.json", "keys.lock"
PREFIX = "psm_"
USAGE_EVERY_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """A key as it is kept; None: no cap. admin: sees and ends what other keys have made. Times are ISO 8601, UTC.

    may_name: keeps names of clusters, which all who see the index read
    """

    id: str
    owner: str
    class_: Class
    sha256: str
    created: str
    max_in_flight: int | None = None
    daily_quota: float | None = None
    admin: bool = False
    may_name: bool = True
    revoked: str | None = None
    last_used: str | None = None  # kept in key-usage.json


def create(
    state: Path,
    owner: str,
    class_: Class = "interactive",
    max_in_flight: int | None = None,
    daily_quota: float | None = None,
    admin: bool = False,
    may_name: bool = True,
) -> tuple[Key, str]:
    """A new key and its secret, which is kept nowhere. Raises InvalidArgument."""
    if not owner.strip() or not owner.isprintable():
        raise InvalidArgument(f"the owner must be a name, not {owner!r}", "owner")
    id_ = secrets.token_hex(4)
    token = f"{PREFIX}{id_}_{secrets.token_urlsafe(32)}"
    key = Key(id_, owner.strip(), class_, _sha256(token), _now(), max_in_flight, daily_quota, admin, may_name)
    with _changing(state) as keys:
        keys[id_] = key
    return key, token


def revoke(state: Path, id_: str) -> Key:
    """Revoke the key, even if the disk is full. Raises NotFound."""
    with _changing(state, in_place=True) as keys:
        if id_ not in keys:
            raise NotFound(f"there is no key {id_!r} in {state / KEYS}; see `polysem keys list`")
        if keys[id_].revoked is None:
            keys[id_] = replace(keys[id_], revoked=_now())
        return keys[id_]


def listed(state: Path) -> list[Key]:
    """All keys, oldest first, with their last use. Raises FailedPrecondition for a damaged file."""
    usage = small_file.read(state / USAGE)
    return [replace(key, last_used=usage.get(key.id, {}).get("last_used")) for key in _keys(state / KEYS).values()]


class Keys:
    """The keys of a running server. Raises FailedPrecondition where there are none to let anybody in."""

    def __init__(self, state: Path, books: Books | None = None) -> None:
        self._state = state
        self._books = books or Books()
        self._spare = Spare()
        self._stamp: small_file.Stamp | None = small_file.stamp(state / KEYS)
        self._keys = _keys(state / KEYS)
        self._accounts: dict[str, Account] = {}
        self._usage: dict[str, dict[str, Any]] = {}
        self._begin()
        if not any(key.revoked is None for key in self._keys.values()):
            raise FailedPrecondition(
                f"nobody could come in: there is no key in {state / KEYS}; make one with "
                f"`polysem keys create --owner NAME --state {state}`"
            )

    def _begin(self) -> None:
        """Go on with the usage that was written, where it can be read."""
        try:
            self._usage = dict(small_file.read(self._state / USAGE))
        except (FailedPrecondition, TypeError, ValueError) as error:
            log.error("today's quotas begin anew: %s", error)

    def caller(self, token: str) -> Caller:
        """Whose key it is. Raises Unauthenticated."""
        self._look()
        parts = token.split("_", 2)
        key = self._keys.get(parts[1]) if len(parts) == 3 else None
        if key is None or not hmac.compare_digest(key.sha256, _sha256(token)):
            raise Unauthenticated("this key is not one of this server's; ask whoever runs it for one")
        self._check(key)
        self._note(key)
        return self._caller(key, key.class_, key.max_in_flight)

    def job_of(self, id_: str) -> Caller:
        """Whoever holds the key of that id, as the one for whom a job works. Raises Unauthenticated. From any thread.

        A job is one thing, so what it asks at once is not capped, nor counted among what its key has in flight.
        """
        self.check(id_)
        key = self._keys[id_]
        return self._caller(key, "bulk", None)

    def _caller(self, key: Key, class_: Class, max_in_flight: int | None) -> Caller:
        account = self._account(key)
        return Caller(key.id, key.id, class_, max_in_flight, account, key.admin, key.owner, key.may_name)

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
        stamp = small_file.stamp(self._state / KEYS)
        if stamp == self._stamp:
            return
        try:
            self._keys, self._stamp = self._spare.lent(lambda: _keys(self._state / KEYS)), stamp
        except FailedPrecondition as error:
            self._books.failed(KEYS, error)
        else:
            self._books.went_well(KEYS)

    def _account(self, key: Key) -> Account:
        known = self._usage.get(key.id, {})
        begun = Account(key.daily_quota, known.get("day", ""), known.get("cost", 0.0))
        account = self._accounts.setdefault(key.id, begun)
        account.daily_quota = key.daily_quota
        return account

    def _note(self, key: Key) -> None:
        self._usage.setdefault(key.id, {})["last_used"] = _now()

    def keep(self) -> None:
        """Write the usage, as far as that can be done."""
        self._write(self._usage_now())

    async def keep_regularly(self) -> None:
        """The same every few seconds, beside the event loop: so much is lost at most if the server is killed."""
        while True:
            await asyncio.sleep(USAGE_EVERY_S)
            await asyncio.to_thread(self._write, self._usage_now())

    def _usage_now(self) -> dict[str, dict[str, Any]]:
        for id_, account in list(self._accounts.items()):
            self._usage.setdefault(id_, {}).update(day=_now()[:10], cost=account.spent())
        return copy.deepcopy(self._usage)

    def _write(self, usage: dict[str, dict[str, Any]]) -> None:
        self._books.attempt(USAGE, lambda: small_file.write(self._state / USAGE, usage))


@contextlib.contextmanager
def _changing(state: Path, in_place: bool = False) -> Iterator[dict[str, Key]]:
    """The keys, to be changed; one process at a time. in_place: even where the disk is full, if nothing gets longer."""
    with small_file.alone(state, LOCK):
        keys = _keys(state / KEYS)
        yield keys
        fields = {id_: {n: v for n, v in asdict(key).items() if n != "last_used"} for id_, key in keys.items()}
        try:
            try:
                small_file.write(state / KEYS, fields)
            except OSError as error:
                if not (in_place and error.errno in small_file.DISK_FULL):
                    raise
                small_file.write_in_place(state / KEYS, fields)
        except OSError as error:
            raise FailedPrecondition(
                f"{state / KEYS} cannot be written: {error.strerror}; nothing was changed"
            ) from error


def _keys(path: Path) -> dict[str, Key]:
    try:
        return {id_: Key(**fields) for id_, fields in small_file.read(path).items()}
    except (TypeError, AttributeError) as error:
        raise FailedPrecondition(
            f"{path} holds no keys of this version; restore it from a backup, or remove it"
        ) from error


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
