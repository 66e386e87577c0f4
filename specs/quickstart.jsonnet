// The quickstart: a small model learns to repair broken Python repositories that it has never seen, on two CPU cores in minutes.
local liverl = import 'liverl.libsonnet';

{
  name: 'quickstart',
  seed: 0,  // everything random follows from this one number

  // The policy: a Qwen2 of about 0.18 million parameters from random initialisation, warm-started on demonstrations.
  policy: {
    type: 'new',
    architecture: {
      vocabulary_size: 512,
      hidden_size: 64,
      intermediate_size: 192,
      num_layers: 3,
      num_heads: 4,
      num_key_value_heads: 2,
      max_position: 1024,  // at least prompt_length + response_length
    },
    warm_start: {
      demonstrations: liverl.tasks.synth {
        count: 3000,
        seed: $.seed + 2,
        split: 'demonstrations',
        families: { operator: 2, bound: 1.5 },  // what demonstrators teach to read, more often than it comes in training
      },
      steps: 1000,
      batch_size: 16,
      learning_rate: 3e-3,
      informed_fraction: 0.4,  // of the demonstrators of these families; all others search without looking:
      informed_families: ['operator', 'bound', 'direction'],  // the other three are left to reinforcement
      observation_loss: 0.1,
    },
  },

  // Reinforcement: liverl.algorithm.grpo, .gspo or .ppo.
  algorithm: liverl.algorithm.grpo,
  mode: liverl.mode.sync,
  trainer: liverl.trainer.cpu { optimizer: { learning_rate: 6e-4, schedule: 'cosine' } },
  schedule: {
    steps: 38,
    train_batch_size: 8,  // prompts; times group_size trajectories
    mini_batch_size: 4,  // two optimizer steps a batch
    validate_every: 38,
    save_every: 1,  // 0.05 s each: a resumed run loses the step in flight at most,
  },

  rollout: liverl.rollout.torch {
    tool_parser: 'compact',
    prompt_length: 64,  // the instruction; everything that tools say counts as response
    response_length: 768,
    max_tokens_per_turn: 8,
  },
  scaffold: liverl.scaffold.repair,
  environment: liverl.environment.bubblewrap {
    reuse_verdicts: true,  // most trials of a group end with the same files: nothing done, or the one right repair
  },

  tasks: {
    local held_out = liverl.tasks.synth { count: 300, seed: $.seed + 1, split: 'held_out' },
    train: [{ name: 'train', source: liverl.tasks.synth { count: 512, seed: $.seed, split: 'train' } }],
    validation: [
      { name: 'held-out', source: held_out, temperature: 0 },
      { name: 'held-out-sampled', source: held_out, temperature: 1 },
    ],
    baselines: true,
  },
}
