// A dense 8-billion model on one machine with eight GPUs: synchronous GRPO, rollout and trainer share the GPUs.
local liverl = import 'liverl.libsonnet';
local packages = import 'packages.libsonnet';
local site = import 'site.libsonnet';

{
  name: 'dense-8gpu',
  seed: 0,

  policy: liverl.policy.pretrained('Qwen/Qwen3-8B'),
  algorithm: liverl.algorithm.grpo { kl: liverl.kl.off, correction: liverl.correction.truncated },
  mode: liverl.mode.sync,
  trainer: liverl.trainer.fsdp2 {
    attention: 'flash_attention_2',
    gpu: 'H100',
    sequence_parallel: 4,  // eight key-value heads; a sequence of 40k tokens does not fit on one GPU
    max_tokens_per_rank: 12288,
    offload: liverl.offload,  // vLLM needs the memory while it rolls out
  },
  schedule: {
    steps: 200,
    train_batch_size: 32,
    mini_batch_size: 32,
    validate_every: 20,
    save_every: 20,
  },

  rollout: liverl.rollout.vllm {
    replicas: 4,
    tensor_parallel_size: 2,
    gpu_memory_utilization: 0.7,
    slots: 64,
    concurrency: 256,
    prompt_length: 24576,  // Claude Code's first request alone is some 20,000 tokens
    response_length: 16384,
  },
  scaffold: liverl.scaffold.claude_code { max_turns: 60 },
  environment: liverl.environment.bubblewrap { memory_mib: 4096, agent_timeout_sec: 1800, verifier_timeout_sec: 300 },

  cluster: site.h100.cluster,

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
