"""Many builds at once: which recipe waits for which, and threads that carry them out. The work is in child processes.

A recipe waits for the layers of its nearest parent among those asked for, not for its image. One that fails stops
only those that stand on it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder.errors import PhiloxeniaError, WorkFailed
from builder.images.manifest import Manifest
from builder.run import stop_all

PATIENCE = 10.0
"""Seconds that builds have to clean up after Ctrl-C; what they leave then is removed by the next build."""

EACH = 1 << 30
"""Memory that one build may want while it writes an image."""


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe to build. `after` is the job whose layers it stands on, or ""."""

    name: str
    after: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended. `image` is there when it is built or up to date, `error` when it failed."""

    name: str
    what: Literal["built", "up to date", "failed", "not built"]
    seconds: float = 0.0
    image: Manifest | None = None
    error: PhiloxeniaError | None = None
    because: str = ""


Make = Callable[[str, Callable[[], None]], tuple[Manifest, bool]]
"""Builds the recipe of that name; calls the second argument once its layers are there."""


@dataclass(slots=True)
class Course:
    """The jobs in their order, and how far each is. Knows nothing of threads."""

    jobs: tuple[Job, ...]
    running: set[str] = field(default_factory=set)
    layered: set[str] = field(default_factory=set)
    ended: dict[str, Result] = field(default_factory=dict)

    def ready(self) -> list[str]:
        """The jobs that may start now."""
        begun = self.running | self.ended.keys()
        return [
            j.name for j in self.jobs
            if j.name not in begun and (not j.after or j.after in self.layered)
        ]  # fmt: skip

    def end(self, result: Result) -> list[Result]:
        """Note how a job ended; the jobs that will not start because of it."""
        self.running.discard(result.name)
        self.ended[result.name] = result
        if result.image is not None:
            self.layered.add(result.name)
        dropped: list[Result] = []
        if result.image is None and result.name not in self.layered:
            for job in self.jobs:
                if job.after == result.name and job.name not in self.running | self.ended.keys():
                    lost = Result(job.name, "not built", because=result.because or result.name)
                    dropped += [lost, *self.end(lost)]
        return dropped

    def results(self) -> list[Result]:
        return [self.ended[job.name] for job in self.jobs if job.name in self.ended]


def in_order(ancestors: Mapping[str, Sequence[str]]) -> tuple[Job, ...]:
    """Jobs, parents before children; `ancestors` of each recipe, root first, without itself."""
    jobs = []
    for name in sorted(ancestors, key=lambda n: (len(ancestors[n]), n)):
        near = [a for a in ancestors[name] if a in ancestors]
        jobs.append(Job(name, near[-1] if near else ""))
    return tuple(jobs)


def at_once() -> int:
    """How many builds this machine carries: its cores, less when memory is short."""
    memory = 0
    for row in Path("/proc/meminfo").read_text().splitlines():
        if row.startswith("MemAvailable:"):
            memory = int(row.split()[1]) << 10
    return max(1, min(len(os.sched_getaffinity(0)), memory // EACH))


def build(
    jobs: Sequence[Job], count: int, make: Make, ended: Callable[[Result], None]
) -> list[Result]:
    """Carry out all jobs, `count` at once; their results, in the order of the jobs.

    ended  told of each result as it comes
    Ctrl-C stops what every job does, and is raised once they have cleaned up.
    """
    course = Course(tuple(jobs))
    events: queue.Queue[Callable[[], None]] = queue.Queue()
    threads: dict[str, threading.Thread] = {}
    failed: list[BaseException] = []

    def finish(result: Result) -> None:
        for each in (result, *course.end(result)):
            ended(each)

    def work(name: str) -> None:
        started = time.monotonic()

        def there() -> None:
            events.put(lambda: course.layered.add(name))

        try:
            image, fresh = make(name, there)
            what: Literal["built", "up to date"] = "built" if fresh else "up to date"
            result = Result(name, what, time.monotonic() - started, image)
        except PhiloxeniaError as error:
            result = Result(name, "failed", time.monotonic() - started, error=error)
        except OSError as cause:
            lost = WorkFailed(f"{name} could not be built")
            lost.__cause__ = cause
            result = Result(name, "failed", time.monotonic() - started, error=lost)
        except BaseException as bug:
            failed.append(bug)
            events.put(lambda: None)
            return
        events.put(lambda: finish(result))

    try:
        while len(course.ended) < len(course.jobs):
            for name in course.ready()[: max(0, count - len(course.running))]:
                course.running.add(name)
                threads[name] = threading.Thread(target=work, args=(name,), daemon=True)
                threads[name].start()
            events.get()()
            if failed:
                raise failed[0]
    except BaseException:
        stop_all()
        deadline = time.monotonic() + PATIENCE
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        raise
    return course.results()
