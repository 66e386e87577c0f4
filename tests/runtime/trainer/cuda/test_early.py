"""Which servers may be started before verl asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compiler import compile_in_memory
from runtime.run_paths import RunPaths
from tests.compiler.golden_cases import spec_path

pytestmark = pytest.mark.torch  # Ray, which comes with the trainer


@pytest.mark.parametrize(
    ("spec", "machines", "servers"),
    [
        ("one-gpu", 1, ["vllm_server_0_0"]),
        ("dense-8gpu", 1, None),
        ("dense-8gpu", 2, []),  # Ray has more machines than the trainer: where a server will be, verl decides
        ("moe-async", 2, []),  # the rollouts' machine is another one
    ],
)
def test_names_are_those_of_servers_that_share_this_machine_with_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, machines: int, servers: list[str] | None
) -> None:
    import ray

    from runtime.trainer.cuda.early import server_names

    text = compile_in_memory(spec_path(spec), target="local").files["verl.yaml"]
    paths = RunPaths(tmp_path)
    paths.bundle.mkdir()
    paths.verl_yaml.write_text(text)
    monkeypatch.setattr(ray, "nodes", lambda: [{}] * machines)
    found = server_names(paths)
    if servers is None:
        tree = yaml.safe_load(text)
        count = 8 // tree["actor_rollout_ref"]["rollout"]["tensor_model_parallel_size"]
        servers = [f"vllm_server_{number}_0" for number in range(count)]
    assert found == servers
