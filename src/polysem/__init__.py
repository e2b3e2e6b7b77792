"""Polysem: what are the different things this neuron does?

The folders lie at the top of the repository; here they are linked under the name that they are imported by, so that
Python, mypy and editors find one package.
"""
