"""Names and neuron ranges on the wire."""

from collections.abc import Mapping, Sequence
from typing import Any

from polysem.proto.checks import check_one_of
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronRange
from polysem.proto.sides import SIDE_NUMBERS, SIDES, Side
from polysem.v1 import neuron_service_pb2 as pb


def name_of(number: int, names: Mapping[str, int], field: str) -> Any:
    if number == 0:
        return next(iter(names))
    for name, known in names.items():
        if number == known:
            return name
    raise InvalidArgument(f"unknown {field} number {number}: this version knows {', '.join(names)}", field)


def encode_side(side: Side) -> Any:
    """The number of a side; raises InvalidArgument for an unknown one."""
    check_one_of(side, SIDES, "side")
    return SIDE_NUMBERS[side]


def decode_side(number: int) -> Side:
    side: Side = name_of(number, SIDE_NUMBERS, "side")
    return side


def encode_ranges(ranges: Sequence[NeuronRange]) -> list[pb.NeuronRange]:
    return [pb.NeuronRange(layer=r.layer, first=r.first, last=r.last) for r in ranges]


def decode_ranges(messages: Sequence[pb.NeuronRange]) -> tuple[NeuronRange, ...]:
    if not messages:
        raise InvalidArgument("no neuron was named: give at least one range", "neurons")
    return tuple(_decode_range(message) for message in messages)


def _decode_range(message: pb.NeuronRange) -> NeuronRange:
    layer, first, last = (
        getattr(message, part) if message.HasField(part) else None for part in ("layer", "first", "last")
    )
    if (first is None) != (last is None) or (layer is None and first is not None):
        raise InvalidArgument("a range has first and last and a layer, or neither first nor last", "neurons")
    if first is not None and last is not None and last < first:
        raise InvalidArgument(f"the range {layer}.{first}-{last} runs backwards", "neurons")
    return NeuronRange(layer, first, last)
