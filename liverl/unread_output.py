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


class _Patient(io.TextIOWrapper):
    """A stream whose writes cannot fail for want of a reader or of room.

    Text is taken back here and not where bytes are written: Ctrl-C between a write and its return would have those
    bytes written again.
    """

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno in _GONE:
            # For children that share it, too.
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self.fileno())
            os.close(sink)
        elif error.errno not in _FULL:
            raise error


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
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        patient = _Patient(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
        setattr(sys, name, patient)
