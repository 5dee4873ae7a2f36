"""Of several processes that fail together one tells why: the first to fail, as the others only miss it."""

from __future__ import annotations

import os
import time
from datetime import timedelta

__all__ = ["has_the_word", "is_alone"]

_PATIENCE = 5.0  # seconds for which a launcher is awaited, which ends all processes once one has failed


def is_alone() -> bool:
    """Was this process started on its own?"""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def has_the_word() -> bool:
    """Is this process to tell of its failure? To one of several that is not it returns late, if it is not ended before:
    the one that speaks must come to its end."""
    if is_alone() or _is_first_to_ask():
        return True
    time.sleep(_PATIENCE)
    return False


def _is_first_to_ask() -> bool:
    """By the store at which the processes meet; where it cannot be reached, each speaks for itself."""
    from torch.distributed import TCPStore

    own = os.environ.get("RANK", "0")
    key = f"icycle/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=_PATIENCE))
        return bool(store.compare_set(key, "", own).decode() == own)
    except (KeyError, ValueError, RuntimeError):
        return True
