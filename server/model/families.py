"""The families of models that can be read."""

from polysem.server.model.gpt2 import GPT2

FAMILIES = {family.model_type: family for family in (GPT2,)}
