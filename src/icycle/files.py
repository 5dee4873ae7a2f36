"""Files that are whole or not there: written beside their place, flushed, and moved."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["append_line", "checksum", "flush", "for_all", "whole_lines", "write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Write a file of UTF-8 text; a process that ends at any moment leaves the old content or the new.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        flush(fresh)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    flush(path.parent)


def append_line(path: Path, line: str) -> None:
    """Write one more line, and wait until it is on the disk; a process that ends on the way leaves a part of it.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    flush(path)


def whole_lines(path: Path) -> list[str]:
    """The lines of a file with their ends, but for one that was cut off; none where there is no file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def for_all(path: Path) -> None:
    """Give what was made for its owner alone (a temporary folder, a safetensors file) the rights of any new one."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
