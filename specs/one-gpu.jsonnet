// The quickstart on one GPU of 16 GB or more: the same tasks, agent and policy; vLLM rolls out, FSDP2 trains on CUDA, both share
// the card. `liverl doctor specs/one-gpu.jsonnet` says what the machine lacks, `make install-gpu` installs the packages.
// `--set 'policy={"type": "pretrained", "path": "DIR"}'` begins with another policy, for example that of an earlier run.
local liverl = import 'liverl.libsonnet';
local quickstart = import 'quickstart.jsonnet';

quickstart {
  name: 'one-gpu',
  trainer: liverl.trainer.fsdp2 {
    ranks_per_node: 1,
    gradient_checkpointing: false,
    micro_batch_size: 32,
    optimizer: quickstart.trainer.optimizer,
  },
  rollout: liverl.rollout.vllm {
    replicas: 1,
    gpu_memory_utilization: 0.4,
    enforce_eager: true,  // so small a model gains less from CUDA graphs than their capture costs
    release_memory: false,  // both fit
    slots: 128,
    concurrency: 128,
    tool_parser: quickstart.rollout.tool_parser,
    prompt_length: quickstart.rollout.prompt_length,
    response_length: quickstart.rollout.response_length,
    max_tokens_per_turn: quickstart.rollout.max_tokens_per_turn,
  },
}
