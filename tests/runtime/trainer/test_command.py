"""The trainer's command line, read by the real Hydra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.run_paths import RUN_DIR, RunPaths
from runtime.trainer.environment import trainer_command

MAIN = """
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(config_path=None, version_base=None)
def main(config):
    print(HydraConfig.get().run.dir, config.name, sep="\\n")

main()
"""


@pytest.mark.parametrize("folder", ["home müller", 'it\'s a "b"', "a=b,{c}[d](e)", "a$b#~\\c", "1e5"])
def test_a_run_may_lie_in_any_folder(folder: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    paths = RunPaths(tmp_path / folder / "runs" / "1")
    paths.bundle.mkdir(parents=True)
    paths.verl_yaml.write_text("name: found\ntrainer: {checkpoint_callback_class: x}\nreward: {num_workers: 1}\n")
    (tmp_path / "main.py").write_text(MAIN)
    _, _, module, *arguments = trainer_command(paths)
    assert module == "verl.trainer.main_ppo"
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), *arguments],
        env={RUN_DIR: str(paths.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(paths.state / "hydra"), "found"]
