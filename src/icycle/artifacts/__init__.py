"""Saving and loading pruned models, without pickle."""

from icycle.artifacts._folder import load, save, saved_inputs, saved_shapes

__all__ = ["load", "save", "saved_inputs", "saved_shapes"]
