"""What norms say about dimensions, on the smallest modules that use them."""

from __future__ import annotations

from torch import nn

from cases import IMAGE, ROW, Case, conv

CASES = {
    "batch norm": Case(lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}),
    "batch norm without parameters": Case(
        lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "instance norm": Case(
        lambda: nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "layer norm": Case(
        lambda: nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.ReLU(), nn.Linear(10, 2)),
        ROW,
        {"0": 10},
        frozenset({"0"}),
    ),
    "group norm": Case(  # groups go exactly, channels within every group do not
        lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 4)),
        IMAGE,
        {"0": 4, "0#2": 2},
        frozenset({"0#2"}),
    ),
    "weight norm": Case(
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 10)),
            nn.ReLU(),
            nn.utils.parametrizations.weight_norm(nn.Linear(10, 2)),
        ),
        ROW,
        {"0.parametrizations.weight": 10},
        frozenset({"0.parametrizations.weight"}),
    ),
    "RMS norm": Case(
        lambda: nn.Sequential(nn.Linear(6, 10), nn.RMSNorm(10), nn.ReLU(), nn.Linear(10, 2)),
        ROW,
        {"0": 10},
        frozenset({"0"}),
    ),
}
