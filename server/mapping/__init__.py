"""Maps of a layer's feature clusters: groups of those whose central examples are similar."""
