"""Neurons drawn: their trees in a browser, a notebook, a report, a figure for a paper."""
