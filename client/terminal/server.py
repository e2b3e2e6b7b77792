"""Description of a server."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from polysem.proto.facts import IndexInfo, Limits, ServerInfo


def _own(limits: Limits) -> str:
    """The limits of the key that asks, where it has some."""
    own = []
    if limits.max_requests_in_flight_of_key:
        own.append(f"{limits.max_requests_in_flight_of_key:,} requests in flight")
    if limits.daily_cost_quota:
        own.append(f"cost {limits.daily_cost_quota:.3g} a day")
    return f"; your key: {', '.join(own)}" if own else ""


def _kept(index: IndexInfo) -> str:
    """Say what of the model an index holds, if it is not the positive side of all layers."""
    found = ["both sides"] if "negative" in index.sides else []
    found += [f"layers {', '.join(map(str, index.layers))}"] if index.layers else []
    found += [f"without the first {index.skip_positions} tokens"] if index.skip_positions else []
    return "".join(f", {words}" for words in found)


def server_info(target: str, about: ServerInfo, indexes: Sequence[IndexInfo]) -> RenderableType:
    """Describe a server and its indexes."""
    model = about.model
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("server", f"{target}, Polysem {about.version}"),
        (
            "model",
            f"{model.id} ({model.family}, {model.n_layers} layers of {model.n_neurons_per_layer:,} "
            f"{'gated ' * model.gated}neurons, "
            f"weights {model.sha256[:12]}…)",
        ),
        ("device", f"{about.device}, {about.dtype}"),
        *([("neighbours", f"searched by {about.neighbour_library}")] if about.neighbour_library else []),
        (
            "limits",
            f"{about.limits.max_neurons_per_request:,} neurons a request, {about.limits.max_requests_in_flight:,} "
            f"requests in flight, {about.limits.max_message_bytes:,} bytes a message{_own(about.limits)}",
        ),
    ):
        facts.add_row(Text(name, "dim"), Text(value))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("index", "corpus", "contexts", "tokens", "selection", "examples", "neurons with examples"):
        table.add_column(heading, justify="left" if heading in ("index", "corpus", "selection") else "right")
    for index in indexes:
        rule = index.selection
        least = f" ≥ {rule.min_activation_fraction:g} of max" if rule.rule == "first" else ""
        table.add_row(
            Text(index.name + (" (default)" if index.name == about.default_index else "")),
            Text(index.corpus_id),
            f"{index.n_contexts:,}",
            f"{index.n_tokens:,}",
            f"{rule.rule} {rule.max_examples}{least}{_kept(index)}",
            f"{index.n_examples:,}",
            f"{index.n_neurons_with_examples:,}{' latents' * bool(index.encoders)}",
        )
    notes = [Text(f"{index.name}: {note}") for index in indexes for note in index.notes]
    return Group(facts, Text(), table, *notes)
