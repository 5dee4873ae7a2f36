"""Processes that carry out runs, each one after the other. A run that fails, or takes its process along, is the only
one that is lost."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType

import torch

from icycle.compare._plan import Run
from icycle.errors import IcycleError, RunInterruptedError
from icycle.recipes import run_recipe
from icycle.training import require_no_stop

__all__ = ["Workers"]

_POLL = 0.5  # seconds after which a signal to stop is seen at the latest


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    run: Run | None = None  # what it works on


class Workers:
    """Up to `count` processes, started when they are first needed, with an equal part of the threads each.

    Used as a context manager; whoever still works at the end is asked to save its run and to stop.

    Args:
        imports: modules that each process imports first.
    """

    def __init__(self, count: int, imports: Sequence[str] = ()) -> None:
        self._count = count
        self._imports = tuple(imports)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.connection.close()  # an idle one ends by that
            if worker.run is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()

    @property
    def busy(self) -> int:
        """How many are at work."""
        return sum(worker.run is not None for worker in self._workers)

    @property
    def free(self) -> bool:
        """Can one more run be started?"""
        return self.busy < self._count

    def start(self, run: Run) -> None:
        """Let somebody who is free carry out `run`."""
        worker = next((worker for worker in self._workers if worker.run is None), None) or self._hired()
        worker.run = run
        worker.connection.send(run)

    def finished(self) -> Iterator[tuple[Run, str | None]]:
        """Wait until a run has come to its end; each that has, with what went wrong, or None.

        Raises:
            RunInterruptedError: SIGTERM or SIGUSR1 came within `stoppable`.
        """
        busy = [worker for worker in self._workers if worker.run is not None]
        ready: list[object] = []
        while not ready:
            ready = [*wait([worker.connection for worker in busy], timeout=_POLL)]
            require_no_stop()
        for worker in busy:
            if worker.connection in ready:
                assert worker.run is not None
                run, worker.run = worker.run, None
                yield run, self._answer(worker)

    def _hired(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        connection, far = context.Pipe()
        threads = max(1, torch.get_num_threads() // self._count)
        process = context.Process(target=_work, args=(far, threads, self._imports))
        process.start()
        far.close()  # so that the end of the process can be seen
        self._workers.append(_Worker(process, connection))
        return self._workers[-1]

    def _answer(self, worker: _Worker) -> str | None:
        try:
            fault: str | None = worker.connection.recv()
        except EOFError:
            worker.process.join()
            self._workers.remove(worker)
            return f"its process ended with exit code {worker.process.exitcode}; perhaps for want of memory"
        return fault


def _work(connection: Connection, threads: int, imports: Sequence[str]) -> None:
    """In a worker: carry out what comes, until there is nobody any more who would send anything."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to everybody; the parent decides what it means
    # The first optimizer of a process would import torch._dynamo, for seconds that only the first run would pay.
    for module in ("torch._dynamo", *imports):
        importlib.import_module(module)
    torch.set_num_threads(threads)
    while True:
        try:
            run: Run = connection.recv()
            connection.send(_fault_of(run))
        except (EOFError, BrokenPipeError):
            return


def _fault_of(run: Run) -> str | None:
    """Begin a run or go on with it; what went wrong, or None."""
    try:
        run_recipe(run.recipe, run.folder, resume=run.folder.recipe.is_file())
    except RunInterruptedError as stop:
        return f"{stop}; all is saved"
    except IcycleError as error:
        return str(error)
    except Exception as error:  # a fault of the user's own code, or of icycle: the others shall go on
        traceback.print_exc(file=sys.stderr)
        return f"{type(error).__name__}: {error}"
    return None
