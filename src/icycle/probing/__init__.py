"""Running a model on a few batches without leaving a trace in it, and seeing what its weights read meanwhile."""

from icycle.probing._batches import inputs_for, to_device
from icycle.probing._channels import channel_elements
from icycle.probing._damping import damped
from icycle.probing._forward import forward, in_eval_mode
from icycle.probing._readings import Reading, Window, watching
from icycle.probing._wrappers import inside, unwrapped

__all__ = [
    "Reading",
    "Window",
    "channel_elements",
    "damped",
    "forward",
    "in_eval_mode",
    "inputs_for",
    "inside",
    "to_device",
    "unwrapped",
    "watching",
]
