"""The model as an index reads it: its neurons, or the latents that the index holds the weights of."""

from collections.abc import Sequence

import torch

from polysem.proto.errors import FailedPrecondition, PolysemError
from polysem.server.index.format import Index
from polysem.server.latents.encoder import Latents
from polysem.server.model.latent_model import LatentModel, open_units
from polysem.server.model.model import Model


def model_of(model: Model, index: Index, units: str = "") -> Model:
    """Return the model with the index's units.

    The index holds what clusters are made of. The encoders themselves, which read new texts, are opened when they are
    first needed.

    units  where the encoders lie, as `--units` takes it; "": where the index's maker had them
    """
    if not index.info.encoders:
        return model
    where = units or str(index.manifest.get("units", ""))
    return LatentModel(
        model,
        index.info.encoders,
        lambda layer: torch.from_numpy(index.encoder(layer)),
        lambda: _opened(index, where),
        where,
    )


def _opened(index: Index, where: str) -> Sequence[Latents]:
    """The encoders of the index's latents. Raises FailedPrecondition where they are not there, or others."""
    try:
        found = open_units(where, index.info.held_layers)
    except PolysemError as error:
        raise FailedPrecondition(
            f"a text can be read for latents of {index.info.name!r} only with their SAE: {error.message}; serve the "
            "index with --units sae:FOLDER"
        ) from error
    for encoder, latents in zip(index.info.encoders, found, strict=True):
        if encoder.sha256 != latents.sha256:
            raise FailedPrecondition(
                f"the SAE {latents.name!r} (sha256 {latents.sha256[:12]}…) is not the one whose latents "
                f"{index.info.name!r} holds at layer {encoder.layer} ({encoder.sha256[:12]}…); serve the index with "
                "--units sae:FOLDER of its own"
            )
    return found


def refuse_latents(index: Index, what: str) -> None:
    """Raise FailedPrecondition for what needs to know what a unit writes, where the index is of latents."""
    if index.info.encoders:
        raise FailedPrecondition(
            f"{what} of latents cannot be told: Polysem reads what a latent is made of, not what it writes; ask an "
            "index of neurons"
        )
