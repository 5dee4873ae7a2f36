"""Artificial bee colony: how many channels each group keeps is searched for, by trial."""

from icycle.methods.abc._colony import Colony, Field, Source
from icycle.methods.abc._method import Abc

__all__ = ["Abc", "Colony", "Field", "Source"]
