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
    // Groups whose trajectories all score the same are replaced; clipped higher above than below (DAPO).
    dapo: base { type: 'grpo', drop_uniform_groups: true },
    // Advantages without the division by the group's spread, and losses not divided by length.
    dr_grpo: base { type: 'grpo', normalize_by_std: false, loss_aggregation: 'seq-mean-token-sum-norm' },
    rloo: base { type: 'rloo' },
    opo: base { type: 'opo' },
    gpg: base { type: 'gpg', loss: $.loss.gpg },
    reinforce_plus_plus: base { type: 'reinforce_plus_plus' },
    reinforce_plus_plus_baseline: base { type: 'reinforce_plus_plus_baseline' },
    // One more trial per prompt, greedy, whose reward is the baseline.
    remax: base { type: 'remax' },
    // Needs a critic; it starts as a copy of the policy.
    ppo: base { type: 'ppo', critic: { learning_rate: 1e-4 } },
  },

  kl: {
    off: { type: 'off' },
    loss(coefficient):: { type: 'loss', coefficient: coefficient },
    reward(coefficient):: { type: 'reward', coefficient: coefficient },
  },

  // Policy losses for `algorithm+: { loss: ... }`.
  loss: {
    vanilla: { type: 'vanilla' },
    gpg: { type: 'gpg' },
    geo_mean: { type: 'geo_mean' },
    cispo: { type: 'cispo' },
    dppo_tv: { type: 'dppo_tv' },
    dppo_kl: { type: 'dppo_kl' },
    sapo: { type: 'sapo' },
    clip_cov: { type: 'clip_cov' },
    kl_cov: { type: 'kl_cov' },
    dro(beta):: { type: 'dro', beta: beta },
  },

  // What is done about the difference between the engine that samples and the one that trains.
  correction: {
    off: { type: 'off' },
    // Weights per token, cut above 2 (truncated importance sampling).
    truncated: { type: 'decoupled', importance: { level: 'token', upper: 2 } },
    // Tokens whose weight is outside a range do not count (IcePop).
    icepop: { type: 'decoupled', importance: { level: 'token', lower: 0.5, upper: 5 } },
    // Trajectories whose mean ratio strays are left out.
    geometric: { type: 'decoupled', importance: null, rejection: [{ type: 'seq_mean_k1', lower: 0.999, upper: 1.001 }] },
    // The rollout's log-probabilities are the old ones: one forward pass less.
    bypass: { type: 'bypass' },
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
      attention: 'sdpa',  // flash_attention_2 packs sequences; its package has to be compiled for the machine's GPU
      gradient_checkpointing: true,
      micro_batch_size: 1,
      optimizer: { learning_rate: 1e-6 },
    },
    // Large mixtures of experts.
    veomni: self.fsdp2 { type: 'veomni', attention: 'flash_attention_2' },
    // The largest models.
    megatron: {
      type: 'megatron',
      ranks_per_node: 8,
      gradient_checkpointing: true,
      micro_batch_size: 1,
      optimizer: { learning_rate: 1e-6 },
    },
  },

  // Everything that can wait in the host's memory does.
  offload: { parameters: true, optimizer: true },

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

  // An existing model by its Hugging Face name or folder.
  policy: {
    pretrained(path):: { type: 'pretrained', path: path },
  },

  // --- agents and their sandboxes ----------------------------------------------------------------------------------------------
  scaffold: {
    // Free-text tools, for models that can write code.
    shell: { type: 'shell', tools: 'free', max_turns: 30, max_edits: 20 },
    // Structured repairs, for policies too small for free text.
    repair: { type: 'shell', tools: 'repair', max_turns: 20, max_edits: 3 },
    // Published agents, at versions that were run against the proxy. First prompts: about 20,000, 8,000 and 1,500 tokens.
    claude_code: { type: 'claude-code', version: '2.1.197', max_turns: 100 },
    // Libraries with a driver program of ours in the sandbox; both need Python 3.12 on the machine, Terminus 2 also tmux.
    openhands_sdk: { type: 'openhands-sdk', version: '1.57.0', max_turns: 100 },
    terminus_2: { type: 'terminus-2', version: '0.24.0', max_turns: 100 },
    opencode: { type: 'opencode', version: '1.18.33', max_turns: 100 },
    mini_swe_agent: { type: 'mini-swe-agent', version: '2.4.6', max_turns: 100, max_replies_without_tool: 3, command_timeout_sec: 60 },
  },

  environment: {
    bubblewrap: { type: 'bubblewrap' },
    process: { type: 'process' },
    // Pods and tasks elsewhere; the site says where.
    kubernetes: { type: 'kubernetes' },
    ecs: { type: 'ecs' },
  },

  // --- tasks ----------------------------------------------------------------------------------------------------------------------
  tasks: {
    synth: { type: 'synth' },
    generate: { type: 'generate' },
    // A repository's own commits that change code and tests.
    history(repository):: { type: 'history', repository: repository },
    // A dataset of a Harbor registry, its tasks fetched with git.
    harbor(dataset, version, registry):: { type: 'harbor', dataset: dataset, version: version, registry: registry },
    // Tasks of an index that earlier trials solved sometimes: those that are always or never solved teach nothing.
    index(path, least=null, most=null):: {
      type: 'index',
      path: path,
      [if least != null || most != null then 'pass_rate']: {
        [if least != null then 'least']: least,
        [if most != null then 'most']: most,
      },
    },
    directories(paths):: { type: 'directories', paths: paths },
  },
}
