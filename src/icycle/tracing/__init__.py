"""Model + example -> every tensor's dimensions as expressions over axes."""

from icycle.tracing._arguments import Arguments, base_name, bind
from icycle.tracing._code import Edit, edits_of, rewritten
from icycle.tracing._copies import Caches, copy_of, duplicate
from icycle.tracing._lifetimes import Made, Memory
from icycle.tracing._memoised import forget
from icycle.tracing._meta import GATES
from icycle.tracing._modules import named_modules, named_tensors, set_mode
from icycle.tracing._operands import Operand
from icycle.tracing._recorder import Step
from icycle.tracing._registry import Rule, register
from icycle.tracing._registry import register as register_rule
from icycle.tracing._run import call_with, output_tensors, run_shadow, shadow_inputs, undisturbed
from icycle.tracing._shadow import shadow_of
from icycle.tracing._sharded import is_sharded, sharded_like, whole
from icycle.tracing._standins import STAND_INS
from icycle.tracing._trace import Trace, trace_model
from icycle.tracing._tracer import Call, Dims, Info, Tracer, flat_tensors
from icycle.tracing._trees import batch_size, map_tensors, shapes_in_words, tensor_shapes, with_batch

__all__ = [
    "GATES",
    "STAND_INS",
    "Arguments",
    "Caches",
    "Call",
    "Dims",
    "Edit",
    "Info",
    "Made",
    "Memory",
    "Operand",
    "Rule",
    "Step",
    "Trace",
    "Tracer",
    "base_name",
    "batch_size",
    "bind",
    "call_with",
    "copy_of",
    "duplicate",
    "edits_of",
    "flat_tensors",
    "forget",
    "is_sharded",
    "map_tensors",
    "named_modules",
    "named_tensors",
    "output_tensors",
    "register",
    "register_rule",
    "rewritten",
    "run_shadow",
    "set_mode",
    "shadow_inputs",
    "shadow_of",
    "shapes_in_words",
    "sharded_like",
    "tensor_shapes",
    "trace_model",
    "undisturbed",
    "whole",
    "with_batch",
]
