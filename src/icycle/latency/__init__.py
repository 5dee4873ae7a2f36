"""Latency as a cost: measured per operation and per network, on a target out of an open registry."""

from icycle.latency import _runtimes, _torch  # noqa: F401  (register the targets)
from icycle.latency._bench import Measurement, bench, too_noisy, verdict
from icycle.latency._cache import cache_folder
from icycle.latency._calls import Call, Tensor
from icycle.latency._measure import Latency
from icycle.latency._memory import Memory, peak_activation_bytes
from icycle.latency._prediction import Prediction
from icycle.latency._select import Attempt, Selector, select
from icycle.latency._targets import Setting, Target, find_target, register, targets
from icycle.latency._timing import Timing, interleaved

__all__ = [
    "Attempt",
    "Call",
    "Latency",
    "Measurement",
    "Memory",
    "Prediction",
    "Selector",
    "Setting",
    "Target",
    "Tensor",
    "Timing",
    "bench",
    "cache_folder",
    "find_target",
    "interleaved",
    "peak_activation_bytes",
    "register",
    "select",
    "targets",
    "too_noisy",
    "verdict",
]
