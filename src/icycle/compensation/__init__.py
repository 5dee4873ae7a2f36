"""Compensation: after a removal, what is left of each consumer takes over the work of what went."""

from icycle.compensation._compensate import compensate

__all__ = ["compensate"]
