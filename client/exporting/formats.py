"""The formats by name, for those who list them without what writes them."""

from typing import Literal, get_args

Format = Literal["circuit-tracer", "neuronpedia", "delphi", "datasets"]
FORMATS: tuple[Format, ...] = get_args(Format)
