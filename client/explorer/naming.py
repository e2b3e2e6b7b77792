"""Names of clusters: those of the overview's rows, and those that people keep, which a neuron's page changes."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from polysem.client import characters
from polysem.client.client import Client
from polysem.client.explorer.questions import View
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.kept_names import Names
from polysem.proto import checks
from polysem.proto.errors import FailedPrecondition, InvalidArgument, Unsupported
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName

MAX_REMEMBERED = 2048  # neurons with their names by rules: some 10 MB where each has a hundred clusters
MAX_NAMED = 50  # neurons of a question
Texts: TypeAlias = dict[int, str]  # names by the labels of their clusters


class RowNames:
    """Names of clusters for rows of neurons. Any thread may call.

    Names by rules are remembered, for they never change.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._by_rules: OrderedDict[tuple[object, ...], Texts] = OrderedDict()  # the latest last
        self._using = threading.Lock()

    def known(self, view: View, neurons: Sequence[Neuron]) -> Mapping[NeuronId, Texts]:
        """Return the names that are there already: kept ones, else remembered ones. Cost: one call."""
        found: dict[NeuronId, Texts] = {}
        for neuron in neurons:
            with self._using:
                found[neuron.id] = dict(self._by_rules.get(_key(view, neuron.provenance, neuron.id), {}))
        by_id = {neuron.id: neuron for neuron in neurons}
        for name in _kept(self._client, view, *by_id) or ():
            if cluster := by_id[name.neuron].with_members(name.members):
                found[name.neuron][cluster.label] = characters.visible(name.text)
        return found

    def asked(self, view: View, ids: Sequence[NeuronId]) -> Mapping[NeuronId, Texts]:
        """Return the names of neurons' clusters of two examples or more; of an older server none.

        Cost: that of `Client.labels`. Raises InvalidArgument for more than MAX_NAMED neurons.
        """
        if len(ids) > MAX_NAMED:
            raise InvalidArgument(f"{len(ids)} neurons were named; ask for at most {MAX_NAMED} at once", "neurons")
        found: dict[NeuronId, Texts] = {id_: {} for id_ in ids}
        by_rules: dict[NeuronId, Texts] = {id_: {} for id_ in ids}
        try:
            labels = self._client.labels(*ids, **view.clustering())
            for one in labels:
                if one.size > 1:
                    found[one.neuron][one.cluster] = characters.visible(one.text)
                    if one.method == "rule":
                        by_rules[one.neuron][one.cluster] = characters.visible(one.text)
        except Unsupported:
            return found
        if labels.provenance is not None:
            self._remember(view, labels.provenance, by_rules)
        return found

    def _remember(self, view: View, of: Provenance, names: Mapping[NeuronId, Texts]) -> None:
        with self._using:
            for id_, texts in names.items():
                self._by_rules[_key(view, of, id_)] = texts
                self._by_rules.move_to_end(_key(view, of, id_))
            while len(self._by_rules) > MAX_REMEMBERED:
                self._by_rules.popitem(last=False)


def _key(view: View, of: Provenance, id_: NeuronId) -> tuple[object, ...]:
    return of.index_sha256, of.software_version, view, id_


def _kept(client: Client, view: View, *ids: NeuronId) -> Names | None:
    """The names that are kept of these neurons; None where the server keeps none, or is older."""
    if not ids:
        return None
    try:
        found = client.names(*ids, **view.asked_of())
        len(found)
    except (Unsupported, FailedPrecondition):
        return None
    return found


def kept(client: Client, id_: NeuronId, view: View) -> list[dict[str, Any]] | None:
    """Return the names that are kept of the neuron; None where the server keeps none, or is older."""
    found = _kept(client, view, id_)
    return None if found is None else [_plain(name) for name in found]


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
