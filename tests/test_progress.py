"""What a run shows: lasting lines everywhere, a live bar on terminals alone."""

from __future__ import annotations

import io

from rich.console import Console

from icycle.cli._progress import Progress

RECORDS = [
    {"kind": "start", "recipe": "mine", "method": "one-cycle", "epochs": 2},
    *(
        {
            "kind": "epoch", "epoch": epoch, "epochs": 2, "loss": 0.5, "seconds": {"train": 90.0},
            "validation_accuracy": 90.0, "metric": "accuracy",
        }
        for epoch in (1, 2)
    ),
    {"kind": "end"},
]  # fmt: skip


def shown(terminal: bool) -> str:
    written = io.StringIO()
    with Progress(Console(file=written, force_terminal=terminal, width=100)) as progress:
        for record in RECORDS:
            progress.show(record)
    return written.getvalue()


def test_where_there_is_no_terminal_there_are_lines_alone() -> None:
    assert shown(terminal=False).splitlines() == [
        "mine: one-cycle",
        "epoch   1/2  loss 0.5000  validation 90.00 %",
        "about 1 min 30 s of training to go, at the pace of this epoch",
        "epoch   2/2  loss 0.5000  validation 90.00 %",
    ]


def test_on_a_terminal_there_is_a_bar_as_well() -> None:
    text = shown(terminal=True)
    assert "\x1b[" in text  # what is drawn anew
    assert text.count("loss 0.5000") == 2
