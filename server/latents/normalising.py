"""Normalisations of what an encoder reads: each returns vectors (P, D) of vectors x (P, D) float32."""

from collections.abc import Callable

from torch import Tensor

Normalise = Callable[[Tensor], Tensor]


def constant_norm(x: Tensor) -> Tensor:
    """Scale each vector to the norm √D; a zero vector stays zero."""
    norms: Tensor = x.norm(dim=-1, keepdim=True)
    scales: float = x.shape[-1] ** 0.5
    return x * (norms.masked_fill(norms == 0, 1).reciprocal() * scales)


def layer_norm(x: Tensor) -> Tensor:
    """Subtract each vector's mean, then divide by its standard deviation (of a sample, D − 1) plus 1e-5."""
    x = centred(x)
    return x / (x.std(dim=-1, keepdim=True) + 1e-5)


def centred(x: Tensor) -> Tensor:
    """Subtract each vector's mean."""
    return x - x.mean(dim=-1, keepdim=True)


def scaled(factor: float) -> Normalise:
    """Multiply by the factor that was found for a whole data set."""
    return lambda x: x * factor


def in_turn(*steps: Normalise | None) -> Normalise | None:
    """Return one normalisation that takes these steps in order; None where there is none."""
    taken = [step for step in steps if step is not None]
    if len(taken) <= 1:
        return taken[0] if taken else None

    def normalise(x: Tensor) -> Tensor:
        for step in taken:
            x = step(x)
        return x

    return normalise
