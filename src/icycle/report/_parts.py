"""What a page is put together from: cards, figures and tables, before they are HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icycle.report.figures import Figure

__all__ = ["Card", "Content", "Section", "Table", "duration"]


@dataclass(frozen=True)
class Card:
    """A figure at a glance; `tone` is "good", "bad" or ""; `share` is that of the dense network's, 0..1 and above."""

    name: str
    value: str
    beside: str = ""
    tone: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row. Without a head it is a list of names and values."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A figure, what it shows in words, and its numbers for those who cannot see it; `width` in thirds of the page."""

    id: str
    title: str
    note: str
    figure: Figure
    numbers: Table | None = None
    width: int = 3


@dataclass(frozen=True)
class Content:
    """A whole page."""

    kind: str
    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    cards: Sequence[Card]
    sections: Sequence[Section]
    tables: Sequence[Table]
    sources: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()


def duration(seconds: float) -> str:
    """A time as it is read."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
