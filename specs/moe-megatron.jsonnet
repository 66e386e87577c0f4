// Qwen3-235B-A22B with Megatron on 16 machines of a site: tensor x pipeline x context x expert parallelism. vLLM rolls out on
// the same GPUs.
local liverl = import 'liverl.libsonnet';
local site = import 'site.libsonnet';

(import 'moe-async.jsonnet') + site.h100 + site.pods + {
  name: 'moe-megatron',
  policy: liverl.policy.pretrained('Qwen/Qwen3-235B-A22B-Instruct-2507'),
  mode: liverl.mode.sync,
  trainer: liverl.trainer.megatron {
    gpu: 'H100',
    nodes: 16,
    tensor_parallel: 4,
    pipeline_parallel: 2,
    context_parallel: 2,
    expert_parallel: 32,
    expert_tensor_parallel: 1,
    max_tokens_per_rank: 40960,
    offload: liverl.offload,
  },
  cluster+: { workers: 16 },
  schedule+: { train_batch_size: 128, mini_batch_size: 32 },
  rollout+: { replicas: 16, tensor_parallel_size: 8, gpu_memory_utilization: 0.8, expert_parallel: true, response_length: 57344 },
}
