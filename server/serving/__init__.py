"""Answering over gRPC: who asks, in which order, with what limits."""
