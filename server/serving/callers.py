"""Who asks: a key's holder, or on an open server whoever is at the other end of the connection."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

Class = Literal["interactive", "bulk"]

COMPANY_S = 5.0  # how long a caller of another share is remembered
CLASS_METADATA = "polysem-class"  # a caller's "bulk" under this name makes one request bulk


class Account:
    """The cost that one key has had served today (UTC); daily_quota None: as much as it likes."""

    def __init__(self, daily_quota: float | None = None, day: str = "", spent: float = 0.0) -> None:
        self.daily_quota = daily_quota
        self._day, self._spent = day, spent

    def spent(self) -> float:
        return self._spent if self._day == today() else 0.0

    def charge(self, cost: float) -> None:
        self._day, self._spent = today(), self.spent() + cost


@dataclass(frozen=True)
class Caller:
    """key: the id of its key, empty on an open server. share: callers of one share get one fair share together.

    admin: may see and end what other keys have made. owner: whose key it is. may_name: clusters, for all who read names
    """

    key: str = ""
    share: str = ""
    class_: Class = "interactive"
    max_in_flight: int | None = None
    account: Account = field(default_factory=Account)
    admin: bool = False
    owner: str = "anyone"
    may_name: bool = True

    @property
    def scope(self) -> str:
        """The key whose jobs, uploads and indexes it may see and end; "": everybody's."""
        return "" if self.admin else self.key

    def asking_for(self, class_: str | None) -> "Caller":
        """This caller with the class that a request's metadata names; a bulk key stays bulk."""
        return replace(self, class_="bulk") if class_ == "bulk" else self


class Company:
    """True while callers of several shares come: until no other has come for COMPANY_S."""

    def __init__(self) -> None:
        self._last, self._until_s = "", 0.0

    def met(self, share: str) -> None:
        """A caller of the share has come."""
        if share != self._last:
            if self._last:
                self._until_s = time.monotonic() + COMPANY_S
            self._last = share

    def __bool__(self) -> bool:
        return time.monotonic() < self._until_s


ANYONE = Caller()
current: ContextVar[Caller] = ContextVar("caller", default=ANYONE)  # of the call that is being handled


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def seconds_to_midnight() -> float:
    """Until the daily quotas begin anew."""
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - now).total_seconds()
