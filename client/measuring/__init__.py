"""Every neuron by every clustering: made, kept in a file, and read from it."""
