"""The resident model: what a family says of its architecture, loading, tokens."""
