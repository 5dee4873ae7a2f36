"""Trackers: the records of a run, sent on as they are written, by Accelerate's trackers.

`metrics.jsonl` stays the truth: a tracker is given what was written there, and the run does not depend on it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from icycle.errors import RecipeError
from icycle.files import write_whole
from icycle.registry import Kind, is_import_path
from icycle.training import Listener, Record

if TYPE_CHECKING:
    from icycle.recipes._schema import Recipe

__all__ = ["find_tracker", "require_trackers", "tracked"]

_KIND: Kind[type[GeneralTracker]] = Kind("a tracker", "icycle.trackers", LOGGER_TYPE_TO_CLASS)
_PACKAGES = {"comet_ml": "comet-ml"}  # where the package is called otherwise than the tracker
_NAME_OF_RUN = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name"}  # keywords
# a started tracker -> its run, and a run -> the keywords that go on with it
_RUN_OF: Mapping[str, tuple[Callable[[Any], str], Callable[[str], dict[str, str]]]] = {
    "wandb": (lambda tracker: tracker.run.id, lambda run: {"id": run, "resume": "allow"}),
    "mlflow": (lambda tracker: tracker.active_run.info.run_id, lambda run: {"run_id": run}),
}
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")

_log = logging.getLogger(__name__)


def find_tracker(name: str) -> type[GeneralTracker]:
    """Accelerate's tracker of this name, or the one at an import path; raises RecipeError where there is none."""
    found = _KIND.find(name)
    if not (isinstance(found, type) and issubclass(found, GeneralTracker)):
        raise RecipeError(f"Expected a subclass of accelerate.tracking.GeneralTracker at {name}, but got {found!r}")
    return found


def require_trackers(names: Sequence[str]) -> None:
    """Raises RecipeError where the package of a tracker is not installed; says how to install them all."""
    available = {getattr(kind, "value", kind) for kind in get_available_trackers()}
    missing = [name for name in names if name in LOGGER_TYPE_TO_CLASS and name not in available]
    if missing:
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        raise RecipeError(
            f"Expected {' and '.join(missing)} to be installed, which track names; run: pip install {packages}"
        )


@contextmanager
def tracked(recipe: Recipe, folder: Path) -> Iterator[Sequence[Listener]]:
    """Listeners for the run of a recipe in a folder, one for all its trackers; they are closed at the end of the block.

    The project is the recipe's name, the run the folder's. Trackers that write files do so in `tracking/`, which keeps
    what their runs are known by, too: a run that is resumed goes on there.

    Raises:
        RecipeError: a tracker cannot be started.
    """
    if not recipe.track:
        yield ()
        return
    records = folder / "metrics.jsonl"
    written = records.read_bytes().count(b"\n") if records.exists() else 0
    trackers: list[GeneralTracker] = []
    try:
        for name in recipe.track:
            trackers.append(_start(name, recipe, folder))
        yield [_Sender(trackers, written)]
    finally:
        for tracker in trackers:
            _tried(tracker, "finish")


def _start(name: str, recipe: Recipe, folder: Path) -> GeneralTracker:
    from accelerate import Accelerator

    kind, place = find_tracker(name), folder / "tracking"
    settings = _flat("", recipe.model_dump(mode="json", warnings="none"), ".")
    try:
        if is_import_path(name):
            own = kind(folder.name, place) if kind.requires_logging_directory else kind(folder.name)
            accelerator = Accelerator(log_with=own)
        else:
            accelerator = Accelerator(log_with=name, project_dir=place)
        keywords = _keywords(name, folder.name, place)
        accelerator.init_trackers(recipe.name, config=settings, init_kwargs={name: keywords})
        (tracker,) = accelerator.trackers
        if name in _RUN_OF:
            write_whole(_run_file(name, place), _RUN_OF[name][0](tracker))
    except Exception as error:  # whatever a tracker's own code raises
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise RecipeError(
            f"Expected to start the tracker {name}, but it gave {reason}; set it up as its own documentation says, or "
            "leave track out"
        ) from error
    return tracker


def _keywords(name: str, run: str, place: Path) -> dict[str, str]:
    """What a tracker of Accelerate's is started with, for a run that is new to it or that it has seen before."""
    keywords = {_NAME_OF_RUN[name]: run} if name in _NAME_OF_RUN else {}
    if name in _RUN_OF:
        place.mkdir(exist_ok=True)
        if _run_file(name, place).exists():
            keywords |= _RUN_OF[name][1](_run_file(name, place).read_text(encoding="utf-8"))
    return keywords | ({"dir": str(place)} if name == "wandb" else {})


def _run_file(name: str, place: Path) -> Path:
    return place / f"{name}.run"


class _Sender:
    """Sends the numbers of each record to trackers. The step is the record's line in the metrics, of which there are
    `written`; a tracker that fails is left out from then on, as the run has its own records."""

    def __init__(self, trackers: Sequence[GeneralTracker], written: int) -> None:
        self._trackers = list(trackers)
        self._line = written

    def __call__(self, record: Record) -> None:
        self._line += 1
        values = {key: value for key, value in record.items() if key != "kind"}
        numbers = {
            key: value
            for key, value in _flat(f"{record['kind']}/", values, "/").items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._trackers = [tracker for tracker in self._trackers if _tried(tracker, "log", numbers, step=self._line)]


def _tried(tracker: GeneralTracker, action: str, *arguments: Any, **keywords: Any) -> bool:
    """Have a tracker do something; false where it failed."""
    try:
        getattr(tracker, action)(*arguments, **keywords)
    except Exception as error:
        _log.warning(
            "The tracker %s failed (%s: %s) and is left out from now on; metrics.jsonl has everything",
            tracker.name, type(error).__name__, error,
        )  # fmt: skip
        return False
    return True


def _flat(prefix: str, values: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Nested values under joined names, of characters that trackers take; lists, and what else they do not, as text."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + _NOT_IN_NAMES.sub("_", str(key))
        if isinstance(value, Mapping):
            found.update(_flat(name + separator, value, separator))
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
