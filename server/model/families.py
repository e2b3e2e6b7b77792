"""The families of models that can be read."""

from polysem.server.model.gated import GATED
from polysem.server.model.ungated import UNGATED

FAMILIES = {family.model_type: family for family in (*UNGATED, *GATED)}
