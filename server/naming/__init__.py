"""Names of feature clusters, found in the texts by rules, without a language model."""
