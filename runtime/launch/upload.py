"""Copies a run to the bucket of its spec while it goes on: its record, metrics and bundle, and of its checkpoints the
newest and the best.

A thread of the launcher: training never waits for it, and whatever fails there is said once and tried again. Knows
nothing of how a bucket works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.config import RuntimeConfig
from runtime.config.upload import Upload
from runtime.launch.bucket import Bucket, BucketError, checkpoint_place, whole_files
from runtime.launch.rundir import RunDirectory
from runtime.telemetry.metrics import Row, read_rows
from runtime.telemetry.scores import validation_scores
from runtime.trainer.stable import stable_steps, step_folder

_LARGEST = 64 << 20
"""Of the files beside the checkpoints."""
_PATIENCE_SEC = 3.0
"""How long the run's end waits for the rest without a word."""


@contextmanager
def uploading(directory: RunDirectory, config: RuntimeConfig, say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, and for a while after it (``finish_sec``), the run is copied as the spec's ``upload`` asks.
    Put around what writes the run's end down, so that the copy says how it ended."""
    if config.upload is None:
        yield
        return
    uploader = Uploader(directory, config.upload, say)
    uploader.start()
    try:
        yield
    finally:
        uploader.finish()


class Uploader:
    def __init__(self, directory: RunDirectory, config: Upload, say: Callable[[str], None]) -> None:
        record = directory.read()
        self._directory, self._config, self._say = directory, config, say
        self._run = f"{record.experiment}/{record.run}"
        self._bucket: Bucket | None = None
        self._sent: dict[str, tuple[int, int]] = {}
        self._kept: set[int] | None = None
        self._told = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Once more, with what the end of the run has written; says so where there was no time for all of it."""
        self._over.set()
        self._thread.join(min(_PATIENCE_SEC, self._config.finish_sec))
        if self._thread.is_alive():
            self._say(f"upload: the rest goes to {self._config.url}; Ctrl-C leaves it")
            self._thread.join(max(0.0, self._config.finish_sec - _PATIENCE_SEC))
        if self._thread.is_alive():
            self._say(f"upload: not finished within {self._config.finish_sec:g} s; {self._config.url} lacks the newest")

    def _work(self) -> None:
        while True:
            last = self._over.is_set()
            try:
                self.once()
                self._told = ""
            except Exception as error:  # a thread that ends without a word would be taken for one that works
                told = str(error) if isinstance(error, BucketError | OSError) else repr(error)
                if told != self._told:
                    self._told = told
                    self._say(f"upload: {told}")
            if last:
                return
            self._over.wait(self._config.every_sec)

    def once(self) -> None:
        """Copy what is new. Raises ``BucketError``, ``OSError``."""
        if self._bucket is None:
            self._bucket = Bucket(self._config.url)
        bucket, folder = self._bucket, self._directory.path
        self._checkpoints(bucket)
        files = [*whole_files(folder, limit=_LARGEST), *whole_files(self._directory.bundle, limit=_LARGEST)]
        if self._over.is_set() and self._directory.logs.is_dir():
            files += whole_files(self._directory.logs, limit=_LARGEST)
        for path in sorted(files, key=lambda path: path.name == "run.json"):  # the record last
            name = path.relative_to(folder).as_posix()
            try:
                found = path.stat()
                stamp = (found.st_mtime_ns, found.st_size)
                if self._sent.get(name) != stamp:
                    bucket.put(path, f"{self._run}/{name}")
                    self._sent[name] = stamp
            except FileNotFoundError:
                continue  # replaced or removed while it was looked at

    def _checkpoints(self, bucket: Bucket) -> None:
        if self._kept is None:  # of an earlier start of the run
            self._kept = set(bucket.checkpoints(self._run))
        here = stable_steps(self._directory.checkpoints)
        wanted = worth_keeping({*here, *self._kept}, read_rows(self._directory.metrics))
        for step in sorted(wanted - self._kept):
            try:
                bucket.put_checkpoint(step_folder(self._directory.checkpoints, step), checkpoint_place(self._run, step))
            except FileNotFoundError:
                continue  # pruned while it was copied; a newer one is there
            self._kept.add(step)
        if wanted & self._kept:
            for step in self._kept - wanted:
                bucket.drop_checkpoint(checkpoint_place(self._run, step))
            self._kept &= wanted


def worth_keeping(steps: set[int], rows: list[Row]) -> set[int]:
    """The newest of ``steps``, and the one with the best mean over the held-out sets; the newer of equals."""
    if not steps:
        return set()
    scored = {row.step: scores for row in rows if row.step in steps and (scores := validation_scores(row))}
    best = max(scored, key=lambda step: (sum(scored[step].values()) / len(scored[step]), step), default=max(steps))
    return {max(steps), best}
