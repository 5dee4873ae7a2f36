"""What a finished run says about itself, and what is kept of a whole comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from icycle.compare._plan import DENSE, Run
from icycle.errors import RecipeError
from icycle.files import write_whole
from icycle.report import Latency
from icycle.runs import seconds_spent

__all__ = [
    "Failure",
    "Kept",
    "Outcome",
    "Result",
    "environments",
    "keep_results",
    "kept_results",
    "read_result",
    "written",
]

_BATCH = "64"
_VERSION = 1


@dataclass(frozen=True)
class Result:
    """One run. `seconds` are those that the method spent: training, searching, removing, judging; not those of reading
    data and writing files. They and `epochs` include the dense network's that it started from; `dense_seconds` are that
    network's alone. `macs` and `latency` (at batch 64) are shares of the dense network's, the latter None where
    the machine does not tell the two apart; `removal_epoch` is that of the last removal within a training run."""

    label: str
    seed: int
    test_accuracy: float
    validation_accuracy: float
    seconds: float
    dense_seconds: float
    epochs: float
    macs: float
    latency: float | None
    metric: str
    removal_epoch: float | None
    higher_is_better: bool = True  # of the metric


@dataclass(frozen=True)
class Failure:
    """A run that came to no end, and why."""

    label: str
    seed: int
    why: str


Outcome = Result | Failure


def written(metric: str, value: float, sign: str = "") -> str:
    """A value of the metric as it is written: an accuracy is in percent, an error may be small."""
    return format(value, sign + (".2f" if metric == "accuracy" else ".4g"))


def read_result(run: Run, done: Mapping[tuple[str, int], Outcome]) -> Result:
    """The result of a finished run; `done` are those that it may have needed.

    Raises:
        RecipeError: what the run left is damaged.
    """
    start = done.get((DENSE, run.seed)) if DENSE in run.needs else None
    began = start if isinstance(start, Result) else None
    try:
        report = json.loads(run.folder.report.read_text(encoding="utf-8"))
        records = [json.loads(line) for line in run.folder.metrics.read_text(encoding="utf-8").splitlines()]
        dense, pruned = report["dense"], report["pruned"]
        return Result(
            label=run.label,
            seed=run.seed,
            test_accuracy=report["test_accuracy"],
            validation_accuracy=report["validation_accuracy"],
            seconds=seconds_spent(report["seconds"]) + (began.seconds if began else 0.0),
            dense_seconds=began.seconds if began else 0.0,
            epochs=sum(map(_epochs, records)) + (began.epochs if began else 0.0),
            macs=pruned["macs"] / dense["macs"],
            latency=_share(*(Latency(**network["latency"][_BATCH]) for network in (pruned, dense))),
            metric=report["metric"],
            removal_epoch=max((record["epoch"] for record in records if record["kind"] == "removal"), default=None),
            higher_is_better=report.get("higher_is_better", True),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"Expected a finished run in {run.folder.path}, but what it left is damaged ({type(error).__name__}: "
            f"{error}); remove the folder, and it is run again"
        ) from error


def _share(pruned: Latency, dense: Latency) -> float | None:
    return pruned.median / dense.median if pruned.told_apart(dense) else None


def _epochs(record: Mapping[str, object]) -> float:
    if record["kind"] == "epoch":
        return 1.0
    return float(record["epochs"]) if record["kind"] == "fine-tune" else 0.0  # type: ignore[arg-type]


@dataclass(frozen=True)
class Kept:
    """What is kept of a comparison: the command that made it, the method that differences are taken against, where and
    with what it was made, and every outcome."""

    command: str
    against: str
    environments: tuple[str, ...]
    outcomes: tuple[Outcome, ...]


def environments(plan: Sequence[Run], outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Where and with what the runs were measured; more than one where they differ."""
    finished = [run for run, outcome in zip(plan, outcomes, strict=True) if isinstance(outcome, Result)]
    places = [json.loads(run.folder.report.read_text(encoding="utf-8"))["environment"] for run in finished]
    return tuple(dict.fromkeys(", ".join(f"{key} {value}" for key, value in place.items()) for place in places))


def keep_results(path: Path, kept: Kept) -> None:
    """Write a comparison to a file."""
    results = [asdict(outcome) for outcome in kept.outcomes if isinstance(outcome, Result)]
    failures = [asdict(outcome) for outcome in kept.outcomes if isinstance(outcome, Failure)]
    content = {
        "version": _VERSION,
        "command": kept.command,
        "against": kept.against,
        "environments": kept.environments,
        "results": results,
        "failures": failures,
    }
    # a line for each run, so that differences between two such files can be read
    lines = json.dumps(content, indent=1).replace('\n   "', ' "').replace("\n  }", " }")
    write_whole(path, lines + "\n")


def kept_results(path: Path) -> Kept:
    """The comparison in a file.

    Raises:
        RecipeError: it is none, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}, not {_VERSION}")
        results = tuple(Result(**values) for values in content["results"])
        failures = tuple(Failure(**values) for values in content["failures"])
        places = tuple(content["environments"])
        return Kept(content["command"], content["against"], places, (*results, *failures))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"Expected the results of a comparison in {path}, but got {error}") from error
