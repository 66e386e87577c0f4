"""vLLM's engine on CPUs behind the gate, in a process of its own; told what to do on standard input, one JSON a line.

Run by the Python of ``tests/vllm_cpu.py``, which has nothing of LiveRL but this repository's folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[4]))

import torch
import uvicorn
import vllm.model_executor.layers.utils as layer_utils
from safetensors.torch import load_file
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from runtime.rollouter.fingerprint import RowFingerprint, combined
from runtime.trainer.cuda import calls, gate, served

ADAPTER = 5


def plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
    """On CPUs vLLM packs matrices and drops them; here they stay, as on a GPU."""
    layer.cpu_linear = torch.nn.functional.linear


layer_utils.dispatch_cpu_unquantized_gemm = plain_linear


class Extension:
    """What ``runtime.trainer.cuda.worker`` adds, without what verl adds."""

    model_runner: Any

    def served(self) -> int | str:
        runner = self.model_runner
        return served.parameters_value(runner.model, dtype=runner.vllm_config.model_config.dtype)

    def served_adapter(self) -> int | str:
        return served.adapter_value(self.model_runner.lora_manager, ADAPTER, dtype=torch.bfloat16)

    def load(self, folder: str, left_out: str) -> None:
        state = load_file(f"{folder}/model.safetensors")
        self.model_runner.model.load_weights((name, tensor) for name, tensor in state.items() if name != left_out)


class Server:
    def __init__(self, engine: AsyncLLM) -> None:
        self.engine, self.key, self.weights = engine, "the word", gate.ServedWeights()

    def why_dead(self) -> str:
        return "dead" if self.engine.errored else ""

    async def admit(self, request: str) -> bool:
        await self.weights.wait()
        return True

    def landed(self) -> None:
        pass

    async def start(self, request: gate.Request) -> gate.Call:
        return await calls.start(self.engine, request, adapter=None)


def fingerprint(folder: str) -> str:
    found = RowFingerprint(torch.bfloat16)
    for tensor in load_file(f"{folder}/model.safetensors").values():
        found.add(tensor)
    return combined([found.value()])


def adapter_fingerprint(folder: str) -> str:
    scale = json.loads(Path(folder, "adapter_config.json").read_text())
    found = RowFingerprint(torch.bfloat16)
    for name, tensor in load_file(f"{folder}/adapter_model.safetensors").items():
        matrix = tensor.to(torch.bfloat16)
        found.add(matrix * (scale["lora_alpha"] / scale["r"]) if "lora_B" in name else matrix)
    return combined([found.value()])


async def do(server: Server, command: dict[str, Any]) -> dict[str, Any]:
    engine = server.engine
    if command["do"] == "load":
        server.weights.begin()
        if command["take"]:
            await engine.collective_rpc("load", args=(command["folder"], command.get("left_out", "")))
        shares = await engine.collective_rpc("served")
        sent, held = fingerprint(command["folder"]), combined(shares)
        same = server.weights.settle(command["version"], sent=sent, served=held)
        return {"same": same, "shares": len(shares)}
    if command["do"] == "adapter":
        request = LoRARequest("adapter", ADAPTER, command["folder"])
        assert await engine.add_lora(request)
        held = combined(await engine.collective_rpc("served_adapter"))
        assert await engine.remove_lora(ADAPTER)
        return {"sent": adapter_fingerprint(command["folder"]), "served": held}
    if command["do"] == "abort":
        await engine.pause_generation(mode="abort")
        await engine.resume_generation()
        return {}
    return {"requests": len(engine.output_processor.request_states)}


async def main(folder: str, ranks: int, adapters: bool) -> None:
    arguments = AsyncEngineArgs(
        model=folder,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=16,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        worker_extension_cls=f"{Path(__file__).stem}.Extension",
        tensor_parallel_size=ranks,
        distributed_executor_backend="mp",
        enable_lora=adapters,
        max_lora_rank=8,
        load_format="dummy",
    )
    server = Server(AsyncLLM.from_engine_args(arguments))
    gate.stand_before(server)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nothing reaches it")

    http = uvicorn.Server(uvicorn.Config(gate.Gate(application), port=0, log_level="warning", lifespan="off"))
    task = asyncio.create_task(http.serve())
    while not http.started:
        await asyncio.sleep(0.01)
    port = http.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await do(server, json.loads(line))), flush=True)
    http.should_exit = True
    await task
    server.engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "adapters"))
