"""The two ends of a neuron's activations."""

from typing import Any, Literal, get_args

from polysem.v1 import neuron_service_pb2 as pb

Side = Literal["positive", "negative"]
SIDES: tuple[Side, ...] = get_args(Side)
SIDE_NUMBERS: dict[str, Any] = {"positive": pb.SIDE_POSITIVE, "negative": pb.SIDE_NEGATIVE}
