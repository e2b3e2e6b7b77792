"""Arguments of the scripts: paths that are there, devices that this machine has."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polysem.proto.errors import PolysemError


@contextmanager
def in_words() -> Iterator[None]:
    """End the script with one sentence where Polysem refuses something."""
    try:
        yield
    except PolysemError as error:
        raise SystemExit(error.message) from error


def path(text: str) -> Path:
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no {text!r}")
    return Path(text)


def folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return Path(text)


def checkout(text: str) -> Path:
    """The folder of a checkout of Polysem."""
    if not (folder(text) / "kernels").is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no checkout of Polysem: it has no folder 'kernels'")
    return Path(text)


def device(text: str) -> Any:
    from polysem.server.model.devices import resolve_device  # torch, which not every script needs

    try:
        return resolve_device(text)
    except PolysemError as error:
        raise argparse.ArgumentTypeError(error.message) from error
