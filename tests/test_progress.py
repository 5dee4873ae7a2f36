"""What a run shows: lasting lines everywhere, a live bar on terminals alone."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from icycle.cli._progress import Progress
from icycle.training import Record

RECORDS: list[Record] = [
    {"kind": "start", "recipe": "mine", "method": "one-cycle", "epochs": 2, "metric": "accuracy"},
    *(
        {
            "kind": "epoch", "epoch": epoch, "epochs": 2, "loss": 0.5, "seconds": {"train": 90.0},
            "validation_accuracy": 90.0, "metric": "accuracy",
        }
        for epoch in (1, 2)
    ),
    {"kind": "end"},
]  # fmt: skip


def shown(terminal: bool, records: Sequence[Record] = RECORDS) -> str:
    written = io.StringIO()
    with Progress(Console(file=written, force_terminal=terminal, width=100)) as progress:
        for record in records:
            progress.show(record)
    return written.getvalue()


def test_where_there_is_no_terminal_there_are_lines_alone() -> None:
    assert shown(terminal=False).splitlines() == [
        "mine: one-cycle",
        "epoch   1/2  loss 0.5000  validation 90.00 %",
        "about 1 min 30 s of training to go, at the pace of this epoch",
        "epoch   2/2  loss 0.5000  validation 90.00 %",
    ]


def test_the_metric_has_its_name_on_both_sides_of_a_removal_before_any_epoch() -> None:
    start = {**RECORDS[0], "metric": "mean squared error"}
    removal = {"kind": "removal", "epoch": 0.5, "macs_kept": 0.5, "accuracy_before": 4.0}
    lines = shown(False, [start, {**removal, "accuracy_after": 5.0}]).splitlines()
    assert lines[1].endswith("50.0% of the MACs left, validation mean squared error 4.00 -> 5.00")
    lines = shown(False, [RECORDS[0], {**removal, "accuracy_after": 5.0}]).splitlines()
    assert lines[1].endswith("validation 4.00 -> 5.00 %")


def test_on_a_terminal_there_is_a_bar_as_well() -> None:
    text = shown(terminal=True)
    assert "\x1b[" in text  # what is drawn anew
    assert text.count("loss 0.5000") == 2
