"""Settings of a config that change a model's numbers and do not show in its weights: epsilons, angles of positions,
activation functions, multipliers, windows."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Of training, of generation, of the head, which is not run, and of how a forward is carried out.
_ELSEWHERE = re.compile(
    r"drop|token_id|init|^(use_cache|tie_\w+|pretraining_tp|gradient_checkpointing|summary_\w+|classifier\w*|num_labels|"
    r"final_logit_softcapping|logits_scaling|logit_scale|slow_but_exact|reorder_and_upcast_attn)$"
)


def settings_of(config: Any) -> dict[str, Any]:
    """Return them by name, as JSON holds them; what the family's config class does not know is left out.

    config  of transformers, which fills in what config.json leaves out
    """
    of_family = type(config)().to_dict().keys() - _of_every_config()
    held = dict(_leaves({name: value for name, value in config.to_dict().items() if name in of_family}))
    if all(value == "default" for name, value in held.items() if name.endswith("rope_type")):  # angles as they come
        held = {
            name: value for name, value in held.items() if not name.endswith(("max_position_embeddings", "n_positions"))
        }
    return json.loads(json.dumps(held, sort_keys=True))  # type: ignore[no-any-return]


def _of_every_config() -> set[str]:
    from transformers import PretrainedConfig

    return set(PretrainedConfig().to_dict())


def _leaves(held: Mapping[str, Any], beginning: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in held.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{beginning}{name}.")
        elif not _ELSEWHERE.search(name):
            yield f"{beginning}{name}", value
