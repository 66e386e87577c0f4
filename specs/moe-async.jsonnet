// Qwen3-30B-A3B on two machines: one trains with VeOmni, one rolls out, at the same time. A weight sync interrupts replies,
// which go on with new weights; experts are replayed as the rollout chose them. The agent is OpenHands, in pods of the same cluster.
local liverl = import 'liverl.libsonnet';
local packages = import 'packages.libsonnet';
local site = import 'site.libsonnet';
local place = site.h200 + site.pods;

{
  name: 'moe-async',
  seed: 0,

  policy: liverl.policy.pretrained('Qwen/Qwen3-30B-A3B-Instruct-2507'),
  algorithm: liverl.algorithm.gspo { correction: liverl.correction.truncated },
  mode: liverl.mode.separate_async {
    sync_every: 4,
    max_staleness: 4,
    stale: 'drop',
    warmup_batches: 1,
    rollout_nodes: 1,
  },
  trainer: liverl.trainer.veomni {
    gpu: 'H200',
    sequence_parallel: 4,
    expert_parallel: 8,
    max_tokens_per_rank: 18432,
    offload: liverl.offload,
  },
  routing_replay: 'R3',
  schedule: {
    steps: 300,
    train_batch_size: 64,
    mini_batch_size: 16,
    validate_every: 20,
    save_every: 20,
  },

  rollout: liverl.rollout.vllm {
    replicas: 4,
    tensor_parallel_size: 2,
    gpu_memory_utilization: 0.85,
    slots: 64,
    concurrency: 256,
    prompt_length: 8192,
    response_length: 65536,
    flags: { 'async-scheduling': true },  // any flag of vLLM by its own name
  },
  scaffold: liverl.scaffold.openhands_sdk { runtime_image: 'registry.example.com/liverl-openhands:1.57.0' },
  environment: liverl.environment.kubernetes + place.environment {
    memory_mib: 4096,
    agent_timeout_sec: 3600,
    verifier_timeout_sec: 600,
    kubernetes+: { active_deadline_sec: 2 * 3600 },
  },

  cluster: place.cluster { rollout: self.worker, rollout_workers: 1 },  // one machine each

  tasks: {
    local bugs(split, per_package) = liverl.tasks.generate {
      packages: std.objectValues(packages),
      per_package: per_package,
      seed: $.seed,
      split: split,
    },
    train: [{ name: 'packages-train', source: bugs('train', 200) }],
    validation: [{ name: 'packages-held-out', source: bugs('held_out', 40), temperature: 0 }],
  },
}
