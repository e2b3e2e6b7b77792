"""Names that people keep of clusters, as the page of a neuron shows and changes them."""

from typing import Any

from polysem.client import characters
from polysem.client.client import Client
from polysem.client.explorer.questions import View
from polysem.proto import checks
from polysem.proto.errors import FailedPrecondition, InvalidArgument, Unsupported
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName


def kept(client: Client, id_: NeuronId, view: View) -> list[dict[str, Any]] | None:
    """Return the names that are kept of the neuron; None where the server keeps none, or is older."""
    try:
        return [_plain(name) for name in client.names(id_, **view.asked_of())]
    except (Unsupported, FailedPrecondition):
        return None


def _plain(name: KeptName) -> dict[str, Any]:
    return {
        "members": list(name.members),
        "text": characters.visible(name.text),
        "method": name.method,
        "author": characters.visible(name.author),
        "day": "" if name.time is None else f"{name.time:%Y-%m-%d}",
    }


def keep(client: Client, id_: NeuronId, view: View, posted: dict[str, Any]) -> None:
    """Keep the posted name of the posted examples; an empty one is forgotten. Raises InvalidArgument."""
    text, members = posted.get("text"), posted.get("members")
    if not isinstance(text, str) or not isinstance(members, list):
        raise InvalidArgument("a name has a text, and members")
    numbers = checks.whole_numbers(sorted(members, key=repr), "members", "the number of an example")
    name = KeptName(id_, tuple(sorted(numbers)), text.strip(), side=view.side)
    client.keep_names(name, index=view.index)
