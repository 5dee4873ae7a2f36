"""Saving and loading pruned models, without pickle."""

from icycle.artifacts._folder import load, save

__all__ = ["load", "save"]
