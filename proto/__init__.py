"""Types, errors and codec that both ends share, between them and the wire (package `polysem.v1`)."""
