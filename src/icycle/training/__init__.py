"""Training: the loop, evaluation, batch-norm recalibration, schedules, checkpoints."""

from icycle.training._accelerator import require_one_process, run_device
from icycle.training._batches import Batch, Loader, inputs_of, run_model, split_batch, to_device
from icycle.training._called import DataParallel
from icycle.training._checkpoint import Stateful, damaged_checkpoints, saved_progress
from icycle.training._clock import STAGES, StageClock, seconds_between
from icycle.training._deterministic import deterministic
from icycle.training._distill import Distill, Teacher
from icycle.training._evaluate import evaluate, evaluate_batches
from icycle.training._hooks import Hooks
from icycle.training._loop import Trainer
from icycle.training._modes import modes_kept
from icycle.training._optimizers import SGD, AdamW, Optimizer
from icycle.training._outputs import logits_of, require_fitting
from icycle.training._processes import (
    from_first,
    is_first,
    join_processes,
    launched_processes,
    local_processes,
    on_first,
    process_count,
    rows_of,
)
from icycle.training._recalibrate import recalibrate
from icycle.training._recorder import Listener, Record, Recorder
from icycle.training._saver import PartSaver, parts_done
from icycle.training._schedules import Constant, Cosine, MultiStep, Schedule
from icycle.training._settings import Named, Settings
from icycle.training._signals import require_no_stop, stoppable
from icycle.training._task import (
    Classification,
    Supervised,
    Task,
    by_parts,
    correct_batches,
    divergence,
    is_part,
    measure,
)
from icycle.training._train_settings import TrainSettings

__all__ = [
    "SGD",
    "STAGES",
    "AdamW",
    "Batch",
    "Classification",
    "Constant",
    "Cosine",
    "DataParallel",
    "Distill",
    "Hooks",
    "Listener",
    "Loader",
    "MultiStep",
    "Named",
    "Optimizer",
    "PartSaver",
    "Record",
    "Recorder",
    "Schedule",
    "Settings",
    "StageClock",
    "Stateful",
    "Supervised",
    "Task",
    "Teacher",
    "TrainSettings",
    "Trainer",
    "by_parts",
    "correct_batches",
    "damaged_checkpoints",
    "deterministic",
    "divergence",
    "evaluate",
    "evaluate_batches",
    "from_first",
    "inputs_of",
    "is_first",
    "is_part",
    "join_processes",
    "launched_processes",
    "local_processes",
    "logits_of",
    "measure",
    "modes_kept",
    "on_first",
    "parts_done",
    "process_count",
    "recalibrate",
    "require_fitting",
    "require_no_stop",
    "require_one_process",
    "rows_of",
    "run_device",
    "run_model",
    "saved_progress",
    "seconds_between",
    "split_batch",
    "stoppable",
    "to_device",
]
