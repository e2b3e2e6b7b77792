"""The questions of `Client` as AsyncClient has them: written once, answered to whoever awaits them."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, cast

from polysem.client.client import Client
from polysem.client.streams import AsyncStream, Collected

Asked = ParamSpec("Asked")


def awaited(
    question: Callable[Concatenate[Client, Asked], Collected],
) -> Callable[Concatenate[Any, Asked], AsyncStream[Collected]]:
    """A question of Client as AsyncClient has it: the same function, which calls that client's `_stream`."""
    return cast("Callable[Concatenate[Any, Asked], AsyncStream[Collected]]", question)


class AwaitedQuestions:
    """The questions of `Client`, to be awaited or read by `async for`; their docstrings hold here."""

    cluster = awaited(Client.cluster)
    embed = awaited(Client.embed)
    examples = awaited(Client.examples)
    statistics = awaited(Client.statistics)
    neurons = awaited(Client.neurons)
    similar = awaited(Client.similar)
    labels = awaited(Client.labels)
    map = awaited(Client.map)
    importance = awaited(Client.importance)
    explain = awaited(Client.explain)
    logit_effects = awaited(Client.logit_effects)
    ablate = awaited(Client.ablate)
