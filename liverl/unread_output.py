"""Standard output of a command that takes hours: whoever reads it may leave, and the work goes on.

A closed pipe (`| head`, a `tee` that was killed), a terminal that is gone and a log on a full disk end no run; what
could not be written is lost, and the run's folder has it all the same. Knows nothing of runs.
"""

from __future__ import annotations

import errno
import io
import os
import sys

_GONE = (errno.EPIPE, errno.EIO)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Patient(io.FileIO):
    """A descriptor whose writes cannot fail for want of a reader or of room."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno in _GONE:
                # For children that share it, too.
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, self.fileno())
                os.close(sink)
            elif error.errno not in _FULL:
                raise
            return memoryview(data).nbytes  # type: ignore[arg-type]


def outlive_readers() -> None:
    """From here on standard output and error are such streams. Under a test's capture they stay as they are."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        try:
            if stream.fileno() != number:
                continue
            stream.flush()
        except (OSError, io.UnsupportedOperation):
            continue
        raw = io.BufferedWriter(_Patient(number, "w", closefd=False))
        patient = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
        setattr(sys, name, patient)
