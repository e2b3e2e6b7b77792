"""Neurons in TransformerLens: where a neuron is hooked, and at which positions of a text one of its clusters fires."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np
import numpy.typing as npt

from polysem.client import letters
from polysem.proto.errors import FailedPrecondition, NotFound
from polysem.proto.neurons import NeuronLike
from polysem.proto.sides import Side
from polysem.proto.units import Unit

if TYPE_CHECKING:
    from polysem.client.client import Client
    from polysem.client.questions.options import ClusteringOptions


@dataclass(frozen=True, slots=True)
class Hook:
    """A neuron's place in TransformerLens 2 to 4.

    name   of the hook point: the activations of a layer's neurons, of gated ones act(g) · u
    index  the neuron's in the last dimension there
    """

    name: str
    index: int

    @property
    def code(self) -> str:
        """A line that reads its activations, (batch, position), out of what `run_with_cache` returned."""
        return f'cache["{self.name}"][..., {self.index}]'


def hook(layer: int, neuron: int, unit: Unit = "neuron") -> Hook:
    """Return where MLP neuron `neuron` of layer `layer` is hooked.

    Raises FailedPrecondition for a latent, which TransformerLens does not compute.
    """
    if unit == "latent":
        raise FailedPrecondition(
            f"TransformerLens computes no latents, so latent {layer}.{neuron} has no hook there; `indexes()` says "
            "which hook its SAE reads"
        )
    return Hook(f"blocks.{layer}.mlp.hook_post", neuron)


def fires(
    client: "Client",
    text: str,
    neuron: NeuronLike,
    cluster: str | int,
    *,
    min_activation_fraction: float = 0.25,
    index: str | None = None,
    side: Side = "positive",
    prepend_bos: bool = True,
    **options: Unpack["ClusteringOptions"],
) -> npt.NDArray[np.bool_]:
    """(T,) bool: the positions of your own text at which one of a neuron's feature clusters fires.

    cluster                  its letter, or its label at this cut
    min_activation_fraction  0..1: a neuron fires where its activation is at least this share of its maximum
    prepend_bos              begin with a False for BOS, as `to_tokens(text)` of TransformerLens does by default
    options                  how the neuron is clustered, as in `Client.cluster`

    Raises NotFound for a cluster that the neuron has not, InvalidArgument for a text that the model cannot read at
    once. Cost: a pass of the model over the text, and the neuron's clustering.
    """
    of = client.cluster(neuron, n_null=0, index=index, side=side, **options)[0]
    label = letters.label_of(of, cluster) if isinstance(cluster, str) else cluster
    if not 0 <= label < of.metrics.n_clusters:
        raise NotFound(
            f"neuron {of.id} has no cluster {label}: cut at {of.distance_threshold:g} it has {of.metrics.n_clusters}"
        )
    explained = client.explain(
        text, neuron, min_activation_fraction=min_activation_fraction, index=index, side=side, **options
    )
    firings = [token.firings[0] for token in explained]
    return np.array([False] * prepend_bos + [one.fires and one.cluster == label for one in firings], np.bool_)
