"""Units: what an index clusters, and the word for one."""

from typing import Literal

Unit = Literal["neuron", "latent"]
