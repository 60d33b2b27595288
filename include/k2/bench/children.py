"""Functions as processes of their own that report back; ended with the block that started them."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from k2.embedded import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess


@dataclass(frozen=True)
class Child:
    """A running function, and where its reports arrive."""

    process: SpawnProcess
    reports: Connection

    @property
    def usage(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


@contextmanager
def child(function: Callable[..., None], *arguments: Any) -> Iterator[Child]:
    """Run `function(*arguments, reports)` as a process; Ctrl-C is its parent's business."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, arguments, sending))
    # What is ignored stays ignored in the new process.
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, interrupted)
    sending.close()
    try:
        yield Child(process, receiving)
    finally:
        if process.is_alive():
            processes.stop_tree(psutil.Process(process.pid))
        process.join()
        receiving.close()


def _work(function: Callable[..., None], arguments: tuple[Any, ...], reports: Connection) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more
        function(*arguments, reports)
