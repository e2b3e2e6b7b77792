"""Polysem: what are the different things this neuron does?

The folders lie at the top of the repository; here they are linked under the name that they are imported by, so that
Python, mypy and editors find one package.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else gRPC writes its own log lines between Polysem's words
