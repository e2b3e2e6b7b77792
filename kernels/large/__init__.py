"""One neuron of very many examples: trees, metrics and neighbours in memory that grows with N · D, not with N²."""
