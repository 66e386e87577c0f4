"""The trainer's log-probabilities beside a trial: read where they fit, left out where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.report.patch import read_patch
from runtime.report.trial import read_trial
from runtime.report.words import pages
from runtime.telemetry.trained_file import FILE, write_trained
from tests.runtime.page.made import make_run


def _kept(folder: Path, trial: str, *lengths: int) -> None:
    rows = [{"trial_id": trial, "sample": number, "logprobs": [-0.25] * size} for number, size in enumerate(lengths)]
    others = [
        {"trial_id": f"{name}{number:02d}", "sample": 0, "logprobs": [9.0]} for name in "az" for number in range(9)
    ]
    write_trained(folder, [*others, *rows])


def test_they_belong_to_a_sample_of_their_length(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1)
    folder = next(path.parent for path in sorted((run.trials / "1").glob("*/trial.json")))
    (sample,) = read_trial(folder).samples
    assert sample.trainer_logprobs is None
    _kept(folder.parent, folder.name, len(sample.response_ids))
    view = read_trial(folder)
    assert view.samples[0].trainer_logprobs == [-0.25] * len(sample.response_ids)
    assert "(trainer -0.2500)" in "\n".join(pages(view, read_patch(run.path, view.record), (), tokens=True))
    _kept(folder.parent, folder.name, len(sample.response_ids) - 1)
    assert read_trial(folder).samples == (sample,)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1PAR1"])
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    run = make_run(tmp_path, steps=1)
    folder = next(path.parent for path in (run.trials / "1").glob("*/trial.json"))
    (folder.parent / FILE).write_bytes(content)
    assert read_trial(folder).samples[0].trainer_logprobs is None
