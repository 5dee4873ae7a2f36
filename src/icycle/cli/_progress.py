"""A run as it goes: one lasting line per epoch and removal; on a terminal a live one below them."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from icycle.report import duration
from icycle.training import Record

__all__ = ["Progress"]


class Progress:
    """A listener of a run's records that shows them on a console; used as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("reading the data", total=None)
        self._search = ""
        self._metric = ""
        self._estimated = False  # has this run been told how long it will take?

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, record: Record) -> None:
        """Show one record; kinds without a way of their own are left to the metrics file."""
        shown = getattr(self, f"_show_{record['kind'].replace('-', '_')}", None)
        if shown is not None:
            shown(record)

    def _show_start(self, record: Record) -> None:
        description = f"{record['recipe']}: {record['method']}"
        if not self._console.is_terminal:
            self._print(description)
        self._bar.update(self._task, description=description, total=record["epochs"], completed=0)
        self._metric = record["metric"]
        self._estimated = False

    def _show_weights(self, record: Record) -> None:
        fresh = f"; a new head: {', '.join(record['fresh'])}" if record["fresh"] else ""
        self._print(f"weights from {record['source']}{fresh}")

    def _show_damaged_checkpoint(self, record: Record) -> None:
        self._print(f"{record['path']} is damaged ({record['damage']}); going on from the checkpoint before it")

    def _show_search(self, record: Record) -> None:
        stability = "" if record["indicator"] is None else f"  indicator {record['indicator']:.3f}"
        self._search = f"{stability}  sub-network {record['macs_kept']:.1%} of the MACs"

    def _show_epoch(self, record: Record) -> None:
        self._bar.update(self._task, completed=record["epoch"], total=record["epochs"])
        self._print(
            f"epoch {record['epoch']:>3}/{record['epochs']}  loss {record['loss']:.4f}  "
            f"validation {self._shown(record['validation_accuracy'])}{self._search}"
        )
        left = (record["epochs"] - record["epoch"]) * sum(record["seconds"].values())
        if left and not self._estimated:
            self._print(f"about {duration(left)} of training to go, at the pace of this epoch")
        self._estimated = True

    def _show_removal(self, record: Record) -> None:
        self._search = ""
        self._print(
            f"removed channels after {record['epoch']:.2f} epochs: {record['macs_kept']:.1%} of the MACs left, "
            f"validation {self._shown(record['accuracy_before'], record['accuracy_after'])}"
        )

    def _show_step(self, record: Record) -> None:
        decision = record["decision"]
        read = f", reading {decision['share']:.0%} of the split" if decision["share"] else ""
        accuracy = "" if decision["accuracy"] is None else f"  validation {self._shown(decision['accuracy'])}{read}"
        tuned = f"  fine-tuned for {record['fine_tuned']:g} epochs" if record["fine_tuned"] else ""
        self._print(f"step {record['number']:>3}  {record['macs_kept']:.1%} of the MACs left{accuracy}{tuned}")

    def _show_cycle(self, record: Record) -> None:
        self._print(
            f"cycle {record['number']:>2}/{record['of']}  {record['tried']} shapes tried, the best: validation "
            f"{self._shown(record['best'])}"
        )

    def _show_trial(self, record: Record) -> None:
        self._print(f"trial {record['number']:>3}  {record['outcome']}")

    def _show_end(self, record: Record) -> None:
        self._bar.update(self._task, description="measured")

    def _shown(self, *values: float) -> str:
        """Values of the metric that decides, one after the other; an accuracy is in percent."""
        numbers = " -> ".join(f"{value:.2f}" for value in values)
        return f"{numbers} %" if self._metric == "accuracy" else f"{self._metric} {numbers}"

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)
