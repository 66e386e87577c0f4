"""New weights on their way from the trainer to an engine: what of the time is the copy, and what is fixed.

    .venv-gpu/bin/python benchmarks/weights.py --shapes tiny,qwen3-0.6b,qwen3-4b [--ways ipc,vllm,nccl] [--json]

`ipc`: over CUDA IPC between two processes of one GPU, verl's transport, into tensors that lie ready: the plain copy.
`vllm`: the same into vLLM, through LiveRL's cast, with the fingerprint of what the engine then holds. `nccl`: from a
GPU to another one by LiveRL's checkpoint engine, fingerprint included, beside a broadcast of as many bytes and a copy
between the two. The sender holds weights in full precision, as a trainer does. Each figure is the middle of several.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Or the benchmark vllm.py, which lies beside this one, would be vLLM.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place or ".").resolve() != HERE)]

from benchmarks._models import SHAPES, config_of, make_model  # noqa: E402


def masters(shape: str, device: str) -> dict[str, Any]:
    """The trainer's weights by their names in a checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape, length=4096))
    torch.manual_seed(0)
    state = model.state_dict()
    return {name: torch.randn(tensor.shape, device=device) * 0.02 for name, tensor in state.items()}


class Child:
    """Another process of this benchmark, told what to do on standard input, one line each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"a process of the benchmark ended: {self._process.wait()}")


@contextmanager
def child(arguments: argparse.Namespace, role: str, shape: str, **variables: str) -> Iterator[Child]:
    command = [sys.executable, __file__, "--role", role, "--shapes", shape, "--device", arguments.device]
    command += ["--models", str(arguments.models), "--bucket", str(arguments.bucket)]
    environment = {**os.environ, **variables}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Child(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


# One GPU: verl's transport.


@functools.cache
def transport() -> Any:
    """verl's module by its file: its package would import vLLM."""
    found = importlib.util.find_spec("verl")
    assert found is not None and found.origin is not None
    path = Path(found.origin).parent / "workers" / "rollout" / "vllm_rollout" / "bucketed_weight_transfer.py"
    spec = importlib.util.spec_from_file_location("bucketed_weight_transfer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def receive_plain(arguments: argparse.Namespace) -> None:
    import torch

    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    held: dict[str, Any] = {}
    transport()

    def take(weights: list[tuple[str, Any]], is_last: bool) -> None:
        for name, tensor in weights:
            if name not in held:
                held[name] = torch.empty_like(tensor)
            held[name].copy_(tensor)

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        receiver = transport().BucketedWeightReceiver(
            json.loads(line)["handle"], device, use_shm=arguments.device == "cpu"
        )
        receiver.receive_weights(take)
        print(json.dumps({"bytes": sum(tensor.nbytes for tensor in held.values())}), flush=True)


def receive_vllm(arguments: argparse.Namespace) -> None:
    """vLLM with the worker extension of a run."""
    from vllm import LLM

    from runtime.rollouter.fingerprint import combined

    engine = LLM(
        str(arguments.models / arguments.shapes),
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=1024,
        gpu_memory_utilization=0.3,
        worker_extension_cls="runtime.trainer.cuda.worker.WorkerExtension",
        logprobs_mode="processed_logprobs",
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        began = time.perf_counter()
        if told["do"] == "take":
            engine.collective_rpc("update_weights_from_ipc", kwargs={"use_shm": False})
            print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
        else:
            held = combined(engine.collective_rpc("liverl_served", kwargs={"base": True, "adapter": False}))
            print(json.dumps({"seconds": time.perf_counter() - began, "fingerprint": held}), flush=True)


async def _send(state: dict[str, Any], handle: str, arguments: argparse.Namespace, *, plain: bool) -> Any:
    """Through the cast and the fingerprint of a run, or not."""
    import torch
    from verl.workers.rollout.utils import ensure_async_iterator

    from runtime.trainer.cuda.sent import Sent

    sent = Sent(torch.bfloat16, tied=True)
    weights = ensure_async_iterator(iter(state.items()))
    passing = weights if plain else sent.passing(weights, compare=True)
    sender = transport().BucketedWeightSender(handle, arguments.bucket, use_shm=arguments.device == "cpu")
    await sender.async_send_weights(passing)
    _wait(arguments.device)
    return sent


def over_ipc(arguments: argparse.Namespace, shape: str, *, vllm: bool) -> dict[str, Any]:
    from runtime.rollouter.fingerprint import combined

    place = tempfile.mkdtemp(prefix="lr-")
    own = "rl-colocate-zmq-0-replica-0-rank-0.sock" if vllm else "plain.sock"
    handle, rows, same = f"ipc://{place}/{own}", [], True
    variables = {"LIVERL_RAY_DIR": place, "VERL_RAY_JOB_ID": "0", "VERL_REPLICA_RANK": "0"}
    with child(arguments, "vllm" if vllm else "plain", shape, **variables) as other:
        state = masters(shape, arguments.device)
        if not vllm:  # what travels, made before
            import torch

            state = {name: one.to(torch.bfloat16) for name, one in state.items() if name != "lm_head.weight"}
        size = 0
        transport()
        other.heard()
        for _ in range(arguments.repeats + 1):
            _wait(arguments.device)
            began = time.perf_counter()
            other.tell(do="take", handle=handle)
            sent = asyncio.run(_send(state, handle, arguments, plain=not vllm))
            heard = other.heard()
            arrived = time.perf_counter()
            size = sent.bytes or heard["bytes"]
            if vllm:
                other.tell(do="served")
                same &= other.heard()["fingerprint"] == combined([sent.fingerprint.value()])
            rows.append((arrived - began, time.perf_counter() - arrived))
    seconds = statistics.median(row[0] for row in rows[1:])
    found = {"first_s": rows[0][0], "seconds": seconds, "gb": size / 1e9, "gb_per_s": size / 1e9 / seconds}
    if vllm:
        found |= {"verify_s": statistics.median(row[1] for row in rows[1:]), "same": same}
    return found


# Two GPUs: LiveRL's checkpoint engine.


def _engine(arguments: argparse.Namespace, *, is_master: bool) -> Any:
    from torch.distributed import ProcessGroupGloo

    from runtime.trainer.cuda.checkpoint_engine import TorchCheckpointEngine

    class Here(TorchCheckpointEngine):
        device = arguments.device

        def _host(self) -> str:
            return "127.0.0.1"

        def _backend(self, store: Any, rank: int, size: int) -> Any:
            if arguments.device == "cpu":
                return ProcessGroupGloo(store, rank, size)
            return super()._backend(store, rank, size)

    return Here(is_master=is_master)


def receive_nccl(arguments: argparse.Namespace) -> None:
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint, combined

    engine = _engine(arguments, is_master=False)
    held: dict[str, Any] = {}
    print(json.dumps({"ready": True}), flush=True)

    async def take() -> str:
        arriving = engine.receive_weights()
        async for name, tensor in arriving:
            if name not in held:
                held[name] = torch.empty_like(tensor)
            held[name].copy_(tensor)
        _wait(arguments.device)
        return str(arriving.fingerprint)

    for line in sys.stdin:
        told = json.loads(line)
        if told["do"] == "meet":
            engine.init_process_group(1, 2, told["place"])
            answer: dict[str, Any] = {}
        elif told["do"] == "broadcast":
            buffer = torch.empty(told["bytes"], dtype=torch.uint8, device=arguments.device)
            for _ in range(told["times"]):
                engine._broadcast(buffer).wait()
            _wait(arguments.device)
            answer = {}
        else:
            wanted, began = asyncio.run(take()), time.perf_counter()
            found = RowFingerprint(torch.bfloat16)
            for tensor in held.values():
                found.add(tensor)
            answer = {"same": combined([found.value()]) == wanted, "verify_s": time.perf_counter() - began}
            answer["bytes"] = sum(tensor.nbytes for tensor in held.values())
        print(json.dumps(answer), flush=True)


def over_nccl(arguments: argparse.Namespace, shape: str) -> dict[str, Any]:
    import torch

    run = Path(tempfile.mkdtemp(prefix="lr-"))
    (run / "bundle").mkdir()
    (run / "bundle" / "verl.yaml").write_text("actor_rollout_ref: {rollout: {dtype: bfloat16}}")
    config_of(shape, length=4096).save_pretrained(run / "policy")
    os.environ["LIVERL_RUN_DIR"] = str(run)
    second = {"CUDA_VISIBLE_DEVICES": "1"} if arguments.device == "cuda" else {}
    engine, rows = _engine(arguments, is_master=True), []
    with child(arguments, "nccl", shape, **second) as other:
        state = masters(shape, arguments.device)
        other.heard()
        began = time.perf_counter()
        other.tell(do="meet", place=engine.prepare())
        engine.init_process_group(0, 2, engine.prepare())
        other.heard()
        meeting = time.perf_counter() - began
        heard: dict[str, Any] = {}
        for _ in range(arguments.repeats + 1):
            _wait(arguments.device)
            began = time.perf_counter()
            other.tell(do="take")
            asyncio.run(engine.send_weights(iter(state.items())))
            _wait(arguments.device)
            sent = time.perf_counter() - began
            heard = other.heard()
            # The receiver's own check, which a run makes in vLLM, is part of what a step waits for.
            rows.append((sent, time.perf_counter() - began, heard["same"]))
        bucket = 256 << 20
        times = max(1, round(heard["bytes"] / bucket))
        plain = []
        for _ in range(3):
            other.tell(do="broadcast", bytes=bucket, times=times)
            buffer = torch.empty(bucket, dtype=torch.uint8, device=arguments.device)
            engine._broadcast(buffer).wait()
            _wait(arguments.device)
            began = time.perf_counter()
            for _ in range(times - 1):
                engine._broadcast(buffer).wait()
            _wait(arguments.device)
            plain.append(bucket * max(1, times - 1) / 1e9 / (time.perf_counter() - began) if times > 1 else 0.0)
            other.heard()
    size = heard["bytes"] / 1e9
    sent, whole = (statistics.median(row[at] for row in rows[1:]) for at in (0, 1))
    return {
        "meeting_s": meeting,
        "first_s": rows[0][1],
        "sent_s": sent,
        "seconds": whole,
        "verify_s": heard["verify_s"],
        "gb": size,
        "gb_per_s": size / whole,
        "broadcast_gb_per_s": statistics.median(plain),
        "copy_gb_per_s": _copy_rate() if arguments.device == "cuda" else 0.0,
        "same": all(row[2] for row in rows),
    }


def _copy_rate() -> float:
    """Of a plain copy between the two cards, in a process of its own that sees both."""
    program = (
        "import torch,time\n"
        "a=torch.empty(1<<30,dtype=torch.uint8,device='cuda:0');b=torch.empty_like(a,device='cuda:1')\n"
        "def once():\n"
        " b.copy_(a);torch.cuda.synchronize(0);torch.cuda.synchronize(1)\n"
        "once();t=time.perf_counter();[once() for _ in range(10)];print(10*(1<<30)/1e9/(time.perf_counter()-t))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def measure(arguments: argparse.Namespace, shape: str, way: str) -> dict[str, Any]:
    make_model(arguments.models / shape, shape, length=32768, weights=False)
    if way == "nccl":
        return over_nccl(arguments, shape)
    return over_ipc(arguments, shape, vllm=way == "vllm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="tiny", help=f"by commas: {', '.join(SHAPES)}")
    parser.add_argument("--ways", default="ipc,vllm,nccl")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bucket", type=int, default=2048, help="MiB that verl's transport moves at a time")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "liverl-shapes")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to see that it runs")
    parser.add_argument("--role", choices=["plain", "vllm", "nccl"], help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ |= {"VERL_USE_EXTERNAL_PLUGINS": "none", "HF_HUB_OFFLINE": "1"}
    if arguments.device == "cpu":
        os.environ |= {"VERL_USE_EXTERNAL_MODULES": "runtime.laptop.verl_cpu", "VERL_PLATFORM": "cpu"}
    if arguments.role:
        {"plain": receive_plain, "vllm": receive_vllm, "nccl": receive_nccl}[arguments.role](arguments)
        return
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("skipped: needs a GPU and `make install-gpu`")
        return
    for shape in arguments.shapes.split(","):
        for way in arguments.ways.split(","):
            if way == "nccl" and arguments.device == "cuda" and torch.cuda.device_count() < 2:
                continue
            row: dict[str, Any] = {"shape": shape, "way": way, "bucket_mib": arguments.bucket}
            try:
                row |= measure(arguments, shape, way)
            except (Exception, SystemExit) as error:
                row |= {"failed": f"{type(error).__name__}: {error}"}
            row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            print(json.dumps(row) if arguments.json else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
