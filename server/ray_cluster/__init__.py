"""Bulk work on the workers of a Ray cluster."""
