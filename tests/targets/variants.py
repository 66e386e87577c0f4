"""Settings of the quickstart that reach every branch of the templates; the table that all tests of targets share."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from compiler import compile_in_memory
from tests.compiler.golden_cases import LAB

GPUS = [
    "rollout.type=vllm",
    "rollout.replicas=8",
    "trainer.device=cuda",
    "trainer.ranks_per_node=8",
    "trainer.precision=bf16",
]
"""Eight GPUs that trainer and rollout share."""
SECRETS = [
    {"variable": "HF_TOKEN", "used_by": "policy", "kubernetes": {"name": "hugging-face", "key": "token"}},
    {"variable": "WANDB_API_KEY", "used_by": "observability", "kubernetes": {"name": "wandb", "key": "api-key"}},
]
NAMED = f"secrets={json.dumps(SECRETS)}"
EIGHT = {"cpus": 32, "memory_gib": 200, "gpus": 8, "shm_gib": 64}
ENV = {
    "NCCL_SOCKET_IFNAME": "eth0",
    "FI_PROVIDER": "efa",
    "HF_HOME": "/weights/hugging face",
    "HTTPS_PROXY": "http://proxy.example.com:3128",
    "NO_PROXY": "127.0.0.1,localhost,10.0.0.0/8",
}
LABELS = {"team": "rl", "cost-centre": "4711"}
ANNOTATIONS = {"k8s.v1.cni.cncf.io/networks": '[{"name": "rdma"}]', "example.com/owner": "{{ someone }}: yes # no"}
SITE = {
    "env": ENV,
    "labels": LABELS,
    "annotations": ANNOTATIONS,
    "image": "registry.example.com/team/liverl:0.1.0",
    "head": {**EIGHT, "rdma": 8, "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
    "worker": {**EIGHT, "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
    "rollout": {**EIGHT, "tolerations": [{"key": "pool", "value": "rollout"}]},
    "rollout_workers": 2,
    "queue": {"type": "kueue", "name": "team", "cluster_queue": "gpus", "priority_class": "high"},
    "priority": 100000,
    "storage": {"claim": "shared-runs", "bucket": "s3://team-runs"},
    "sandboxes": {
        "runtime_class": "gvisor",
        "runtime_handler": "runsc",
        "node_selector": {"liverl/sandboxes": "lazy"},
        "tolerations": [{"key": "sandboxes", "effect": "NoSchedule"}],
        "prepull": ["python:3.11-slim", "registry.example.com/team/tasks@sha256:" + "0" * 64],
    },
    "monitor": True,
    "retries": 5,
    "docker": {"sandbox_host": "tcp://sandboxes.example.com:2376"},
    "skypilot": {"accelerator": "H100", "nodes": 2, "spot": True, "infra": "aws/us-east-1"},
}
"""What the owner of a cluster might write: everything at once."""


BUCKET = {
    "bucket": "s3://team-runs/",
    "driver": {
        "name": "ru.yandex.s3.csi",
        "attributes": {"mounter": "geesefs"},
        "mount_options": ["--memory-limit=1000"],
        "secret": "bucket",
    },
}
"""Run directories in object storage on Kubernetes."""


VOLUMES = [
    {"source": {"type": "claim", "name": "data"}, "mount_path": "/mnt/data", "read_only": False},
    {"source": {"type": "nfs", "server": "nfs.example.com", "path": "/export/sets"}, "mount_path": "/mnt/sets"},
    {"source": {"type": "host", "path": "/opt/amazon/efa"}, "mount_path": "/opt/amazon/efa"},
    {"source": {"type": "config_map", "name": "authorities"}, "mount_path": "/etc/ssl/site"},
    {"source": {"type": "secret", "name": "netrc"}, "mount_path": "/mnt/netrc"},
    {"source": {"type": "bucket", "url": "s3://team-sets"}, "mount_path": "/mnt/bucket"},
]
"""One of each kind."""


def mounts(*kinds: str) -> str:
    return f"cluster.volumes={json.dumps([one for one in VOLUMES if one['source']['type'] in kinds])}"


PRETRAINED = [
    *GPUS,
    'policy={"type": "pretrained", "path": "Qwen/Qwen3-8B"}',
    'rollout.tool_parser="hermes"',
    "rollout.max_tokens_per_turn=64",
]


def weights(*sources: Any, **fields: Any) -> str:
    return f"cluster.weights={json.dumps({'sources': list(sources), **fields})}"


def cluster(**changes: Any) -> str:
    return f"cluster={json.dumps(changes)}"


CLAIMED, FETCHED = {"type": "claim", "name": "models"}, {"type": "download"}
EVERYWHERE = (
    CLAIMED,
    {"type": "bucket", "url": "s3://models/hub"},
    {"type": "nfs", "server": "nfs", "path": "/models"},
)
BIG = cluster(head=EIGHT, worker=EIGHT, skypilot={"accelerator": "H100"})
VARIANTS: dict[str, list[str]] = {
    "quickstart": [],
    "dashboard": ["observability.dashboard={}"],
    "separate": ['mode={"type": "separate_async"}'],
    "storage class": ["cluster.storage.storage_class=fast-ssd", "cluster.workers=3"],
    "bucket": [cluster(storage=BUCKET)],
    "gpus": [*GPUS, cluster(head=EIGHT, worker=EIGHT, skypilot={"accelerator": "H100"})],
    "site": [*GPUS, cluster(**SITE), NAMED],
    "weights": [*PRETRAINED, BIG, weights(*EVERYWHERE, {"type": "present"})],
    "fetched": [*PRETRAINED, BIG, NAMED, weights(FETCHED, {"type": "present"})],
    "workers": [
        'rollout.agent_loop={"workers": 4, "cpus": 2}',
        cluster(agent_loop={"cpus": 4, "memory_gib": 16}, agent_loop_workers=2),
    ],
    "volcano": [cluster(queue={"type": "volcano", "name": "batch"}), NAMED],
}


def sky(infra: str, bucket: str, **changes: Any) -> list[str]:
    chosen = {"infra": infra, "accelerator": "H100", "jobs_bucket": bucket, **changes}
    settings = cluster(head=EIGHT, worker=EIGHT, skypilot=chosen, labels=LABELS, storage={"bucket": bucket})
    return [*PRETRAINED, settings, weights({"type": "bucket", "url": f"{bucket}/hub"})]


AZURE = "https://account.blob.core.windows.net/runs"
SKIES = {
    "aws": sky("aws/us-east-1/us-east-1a", "s3://team-runs", spot=True),
    "gcp": sky("gcp/us-central1/us-central1-a", "gs://team-runs", spot=True),
    "azure": sky("azure/eastus", AZURE, spot=True),
    "lambda": sky("lambda", "r2://team-runs"),
    "kubernetes": sky("kubernetes/gke_project_zone_name", "gs://team-runs"),
}
"""SkyPilot's clouds, each with a bucket of one kind."""


@cache
def compiled(variant: str, target: str) -> dict[str, str]:
    return dict(compile_in_memory(LAB, target=target, sets=VARIANTS[variant]).files)
