// LiveRL's library for experiment specs: presets for every axis. Each is an object; override any field with { ... }.
{
  // --- what is optimised -------------------------------------------------------------------------------------------------
  algorithm: {
    local base = {
      group_size: 8,
      clip: { low: 0.2, high: 0.28 },
      kl: $.kl.off,
      entropy_coefficient: 0,
    },
    grpo: base { type: 'grpo' },
    // One ratio per sequence: the clip range of the GSPO paper.
    gspo: base { type: 'gspo', clip: { low: 3e-4, high: 4e-4 } },
    // Needs a critic; it starts as a copy of the policy.
    ppo: base { type: 'ppo', critic: { learning_rate: 1e-4 } },
  },

  kl: {
    off: { type: 'off' },
    loss(coefficient):: { type: 'loss', coefficient: coefficient },
    reward(coefficient):: { type: 'reward', coefficient: coefficient },
  },

  // --- how rollout and training share time and hardware -----------------------------------------------------------------------
  mode: {
    sync: { type: 'sync' },
    colocate_async: { type: 'colocate_async' },
    separate_async: { type: 'separate_async', sync_every: 1 },
  },

  // --- engines --------------------------------------------------------------------------------------------------------------
  trainer: {
    cpu: {
      type: 'fsdp2',
      device: 'cpu',
      precision: 'fp32',
      attention: 'sdpa',
      micro_batch_size: 4,  // small: trajectories of one size pad each other little
      optimizer: { learning_rate: 1e-4 },
    },
    fsdp2: {
      type: 'fsdp2',
      device: 'cuda',
      ranks_per_node: 8,
      precision: 'bf16',
      attention: 'flash_attention_2',
      gradient_checkpointing: true,
      micro_batch_size: 1,
      optimizer: { learning_rate: 1e-6 },
    },
  },

  rollout: {
    // LiveRL's engine for small models on a CPU.
    torch: {
      type: 'torch',
      replicas: 2,
      slots: 32,
      prompt_length: 512,
      response_length: 512,
      max_tokens_per_turn: 128,
      tool_parser: 'hermes',
      concurrency: 32,
    },
    vllm: self.torch { type: 'vllm', slots: 256, concurrency: 256, prompt_length: 8192, response_length: 32768, max_tokens_per_turn: 4096 },
  },

  // --- agents and their sandboxes ----------------------------------------------------------------------------------------------
  scaffold: {
    // Free-text tools, for models that can write code.
    shell: { type: 'shell', tools: 'free', max_turns: 30, max_edits: 20 },
    // Structured repairs, for policies too small for free text.
    repair: { type: 'shell', tools: 'repair', max_turns: 20, max_edits: 3 },
    // The published agent, at a version that was run against the proxy. Its first prompt has about 20,000 tokens.
    claude_code: { type: 'claude-code', version: '2.1.197', max_turns: 100 },
  },

  environment: {
    bubblewrap: { type: 'bubblewrap' },
    process: { type: 'process' },
  },

  // --- tasks ----------------------------------------------------------------------------------------------------------------------
  tasks: {
    synth: { type: 'synth' },
    generate: { type: 'generate' },
    directories(paths):: { type: 'directories', paths: paths },
  },
}
