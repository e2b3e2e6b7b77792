"""Whose is what: names of what keys own, and whose turn it is."""

from collections import Counter
from collections.abc import Mapping, Sequence


def reference(owner: str, name: str) -> str:
    """Name of an upload among all keys' uploads: OWNER/NAME; NAME for those of no key."""
    return f"{owner}/{name}" if owner else name


def owner_and_name(reference: str) -> tuple[str, str]:
    """Return what `reference` was made of."""
    owner, _, name = reference.rpartition("/")
    return owner, name


def may_see(owner: str, shared: bool, scope: str) -> bool:
    """Whether a caller of that scope (a key, or "": all) sees what belongs to the owner ("": everybody's)."""
    return not scope or shared or owner in (scope, "")


def in_turn(queued: Sequence[tuple[str, str]], last_turn: Mapping[str, float]) -> list[str]:
    """Ids of queued jobs in the order in which they will run: their owners take turns.

    queued     (id, owner), oldest first
    last_turn  when a job of the owner began last; whoever waited longest is next
    """
    seen: Counter[str] = Counter()
    first: dict[str, int] = {}
    order = []
    for place, (id_, owner) in enumerate(queued):
        order.append((seen[owner], last_turn.get(owner, 0.0), first.setdefault(owner, place), id_))
        seen[owner] += 1
    return [id_ for *_, id_ in sorted(order)]
