"""Planted truth: examples of known neurons are mixed, and every clustering says which came from which."""
