"""Two binary formats of labelled images, read with a check of every size.

IDX, of MNIST and its successors: a magic number, the sizes, the bytes; here gzipped.
CIFAR's: records of one or two label bytes and the 3,072 bytes of a 3x32x32 image, nothing else.

torchvision's readers cannot take their place: that of IDX unpacks to disk first, into a folder that may be read-only,
and takes longer (0.11 s instead of 0.09 s of processor time for 50,000 images, by bench/loop.py); that of CIFAR
unpickles.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from icycle.errors import DataError

__all__ = ["read_cifar", "read_idx"]

_UNSIGNED_BYTE = 0x08
_CIFAR_SHAPE = (3, 32, 32)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in a gzipped IDX file: uint8, `dimensions` dimensions.

    Raises:
        DataError: the file is missing, cut off, not gzip, not IDX, or not of the stated kind.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"Expected the file {path}, but there is none; install Debian's package dataset-fashion-mnist, or set "
            "data.folder to the folder that holds the data set's four .gz files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"it cannot be unpacked: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise _damaged(path, f"it holds {len(content)} bytes, fewer than its header of {header}")
    zero, kind, found = struct.unpack(">HBB", content[:4])
    if (zero, kind, found) != (0, _UNSIGNED_BYTE, dimensions):
        raise _damaged(path, f"its magic number is {content[:4].hex()}, not {_UNSIGNED_BYTE << 8 | dimensions:08x}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise _damaged(
            path, f"{len(content) - header} bytes follow its header, where its sizes {shape} need another number"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def read_cifar(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `(n, 3, 32, 32)` and labels uint8 `(n,)`; of two label bytes the second, finer one counts.

    Raises:
        DataError: the file is missing, empty, or not a whole number of records.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise DataError(
            f"Expected the file {path}, but there is none; get CIFAR's 'binary version', unpack it, and set "
            "data.folder to the folder with its .bin files"
        ) from error
    record = label_bytes + math.prod(_CIFAR_SHAPE)
    if len(content) == 0 or len(content) % record:
        raise _damaged(path, f"it holds {len(content)} bytes, not a whole number of records of {record}")
    records = content.reshape(-1, record)
    return records[:, label_bytes:].reshape(-1, *_CIFAR_SHAPE), records[:, label_bytes - 1]


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"Expected images or labels in {path}, but {what}; get the file again")
