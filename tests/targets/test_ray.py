"""``--target ray``: the script says to ``ray job submit`` exactly what Ray's own command line understands."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.targets.variants import VARIANTS, compiled


def submitted(folder: Path, variant: str, *arguments: str, environment: dict[str, str] | None = None) -> list[str]:
    """The arguments that ``submit.sh`` gives to ``ray``."""
    (folder / "submit.sh").write_text(compiled(variant, "ray")["submit.sh"])
    (folder / "ray").write_text(f'#!/bin/bash\nprintf "%s\\0" "$PWD" "$@" > {folder}/arguments\n')
    (folder / "ray").chmod(0o755)
    subprocess.run(
        ["bash", str(folder / "submit.sh"), *arguments],
        env={"PATH": f"{folder}:/usr/bin:/bin", **(environment or {})},
        cwd="/",
        check=True,
        timeout=60,
    )
    where, *given = (folder / "arguments").read_text().split("\0")[:-1]
    assert where == str(folder)
    return given


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_script_is_sound(variant: str, tmp_path: Path) -> None:
    script = tmp_path / "submit.sh"
    script.write_text(compiled(variant, "ray")["submit.sh"])
    subprocess.run(["bash", "-n", str(script)], check=True)
    given = submitted(tmp_path, variant)
    assert given[:2] == ["job", "submit"]


def test_rays_command_line_understands_the_arguments(tmp_path: Path) -> None:
    """Parsed by Ray's own parser, and by the shell as the driver will be."""
    cli = pytest.importorskip("ray.dashboard.modules.job.cli")
    given = submitted(tmp_path, "quickstart", "--no-wait", environment={"RAY_ADDRESS": "http://head:8265"})
    parsed = cli.submit.make_context("submit", given[2:]).params
    assert parsed["address"] == "http://head:8265"
    assert parsed["working_dir"] == "." and parsed["runtime_env"] == "runtime-env.yaml"
    assert parsed["no_wait"] is True
    assert json.loads(parsed["metadata_json"]) == {"experiment": "quickstart"}
    # Ray joins the words with quotes and hands the line to a shell.
    line = shlex.join(parsed["entrypoint"]).replace("exec python", "exec printenv LIVERL_RAY_ADDRESS #")
    said = subprocess.run(line, shell=True, env={"RAY_ADDRESS": "10.0.0.1:6379", "PATH": "/usr/bin:/bin"},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert said.stdout == "10.0.0.1:6379\n"
    assert "python -m liverl run . --runs-dir /runs --resume auto" in parsed["entrypoint"][-1]


def test_the_address_of_the_spec_is_the_default(tmp_path: Path) -> None:
    given = submitted(tmp_path, "quickstart")
    assert given[given.index("--address") + 1] == "http://127.0.0.1:8265"


def test_the_runtime_environment_is_rays(tmp_path: Path) -> None:
    runtime_env = pytest.importorskip("ray.runtime_env")
    document = yaml.safe_load(compiled("site", "ray")["runtime-env.yaml"])
    checked = runtime_env.RuntimeEnv(**document)
    assert checked["env_vars"]["PYTHONSAFEPATH"] == "1"
    assert not {"HF_TOKEN", "WANDB_API_KEY"} & set(checked["env_vars"])
