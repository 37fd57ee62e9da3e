"""Ray on this machine, started in a thread while a run is still prepared.

Ray takes seconds to start, most of which it waits for processes of its own, and so does what a run prepares once its
manifest is known to be right: importing torch, looking at the GPUs, opening the folder. A long manifest takes seconds
itself: Ray starts once its first rows are right, the others are read meanwhile, and so is torch. An error that comes
meanwhile is raised once Ray has started and stopped.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType

from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.driver.cpu_workers import workers_here
from wanbatch.jobs.driver.ray_session import local_ray
from wanbatch.manifests.dataset.event_log import LOG, parsed_events
from wanbatch.manifests.storage.local_lock import FolderLock
from wanbatch.manifests.storage.urls import INTERNAL, is_url

DEVICES = Path("/dev")
MOST_ON_CPUS = 4  # workers whose processes start at once: each needs a core to start, and there may be few rows
END_BYTES = 1 << 14  # of a log, that have its last event


def workers_to_expect(settings: Settings, devices: Path = DEVICES) -> int:
    """How many workers a run will have on this machine, as far as that can be told without PyTorch; one at least.

    Args:
        settings: of the run.
        devices: the folder of the devices.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = sum(one.name.removeprefix("nvidia").isdigit() for one in devices.glob("nvidia*"))
    if visible is not None:
        gpus = min(gpus, sum(bool(one.strip()) for one in visible.split(",")))
    wanted = gpus if settings.workers in (None, AUTO) else min(gpus, int(settings.workers))
    if gpus and settings.device != "cpu":
        return max(1, wanted)
    on_cpus = workers_here(settings.threads) if settings.workers in (None, AUTO) else int(settings.workers)
    return min(MOST_ON_CPUS, on_cpus)


def seems_unfinished(out: Path) -> bool:
    """Whether an output folder lacks images that its last run left, by the end of its log, and nobody holds it.

    Args:
        out: the folder; one that is not there yet lacks all.
    """
    if not out.exists():
        return True
    try:
        with (out / INTERNAL / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END_BYTES))
            events = parsed_events(file.read())
        return bool(events and events[-1].get("pending") != 0 and FolderLock(out).holder() is None)
    except OSError:  # the run will say
        return False


class RayAhead:
    """A Ray of one's own that may be started before it is needed. Used as a context, it leaves none behind."""

    def __init__(self, preload: str | None = None) -> None:
        """Start nothing yet. preload: the module that processes of workers import while they wait for work."""
        self._preload = preload
        self._thread: threading.Thread | None = None
        self._ready, self._release = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self.seconds_to_start: float | None = None  # that Ray took in the thread

    def __enter__(self) -> RayAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def start_for(self, settings: Settings, out: str | Path, here: bool = True) -> None:
        """Start Ray in a thread, for a run whose manifest seems to be right; once.

        Not for a folder that seems to lack nothing, nor for one in a store, nor while slots are timed.

        Args:
            settings: of the run, with the preset applied.
            out: its output folder, a path or URL.
            here: whether it has a Ray of its own.
        """
        known = here and settings.slots != AUTO and not is_url(out)
        if known and self._thread is None and seems_unfinished(Path(out)):
            self.start(workers_to_expect(settings))

    def start(self, workers: int = 1) -> None:
        """Start Ray in a thread, which stops it in the end: Ray's processes die with the thread that started them.

        Args:
            workers: see `local_ray`.
        """
        self._thread = threading.Thread(target=self._hold, args=(workers,), name="ray-ahead", daemon=True)
        self._thread.start()

    @contextmanager
    def session(self, workers: int) -> Iterator[None]:
        """Have Ray: the one that was started, or one that starts now; it stops at the end.

        Args:
            workers: see `local_ray`.

        Raises whatever `local_ray` raises.
        """
        if self._thread is not None:
            self._ready.wait()
        if self._error is not None:
            raise self._error
        try:
            with local_ray(workers, self._preload):
                yield
        finally:
            self._stop()

    def _hold(self, workers: int) -> None:
        begin = time.perf_counter()
        try:
            with local_ray(workers, self._preload):
                self.seconds_to_start = time.perf_counter() - begin
                self._ready.set()
                if not self._release.is_set():
                    import_module("torch")  # this process is about to look at the GPUs
                self._release.wait()
        except BaseException as error:  # noqa: BLE001  raised where Ray is needed
            self._error = error
        finally:
            self._ready.set()

    def _stop(self) -> None:
        self._release.set()
        if self._thread is not None:
            self._thread.join()
