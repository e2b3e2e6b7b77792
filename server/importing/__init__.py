"""Activations and explanations of other tools, as an index and names."""
