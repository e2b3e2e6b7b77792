"""Folders and files of a build on disk."""

import os
from pathlib import Path


def bytes_in(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    partial_ = path.with_name(path.name + ".partial")
    partial_.write_text(text, "utf-8")
    partial_.rename(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
