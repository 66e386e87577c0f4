// The ground of the compiler's tests: values that stay put when the real quickstart is tuned.
// The quickstart: a small model learns to repair broken Python repositories that it has never seen, on two CPU cores in minutes.
local liverl = import 'lab.libsonnet';

{
  name: 'quickstart',
  seed: 0,  // everything random follows from this one number

  // The policy: a Qwen2 of about 0.4 million parameters from random initialisation, warm-started on demonstrations.
  policy: {
    type: 'new',
    architecture: {
      vocabulary_size: 1024,
      hidden_size: 96,
      intermediate_size: 256,
      num_layers: 3,
      num_heads: 4,
      num_key_value_heads: 2,
      max_position: 1024,  // at least prompt_length + response_length
    },
    warm_start: {
      demonstrations: liverl.tasks.synth { count: 600, seed: $.seed + 2, split: 'demonstrations' },
      steps: 300,
      batch_size: 32,
      learning_rate: 3e-3,
      informed_fraction: 0.15,  // the rest of the demonstrated edits search without looking: room to learn
      observation_loss: 0.3,
    },
  },

  // Reinforcement: liverl.algorithm.grpo, .gspo or .ppo.
  algorithm: liverl.algorithm.grpo,
  mode: liverl.mode.sync,
  trainer: liverl.trainer.cpu { optimizer: { learning_rate: 5e-4 } },
  schedule: {
    steps: 40,
    train_batch_size: 16,  // prompts; times group_size trajectories
    mini_batch_size: 16,  // the whole batch: one optimizer step
    validate_every: 40,
    save_every: 20,
  },

  rollout: liverl.rollout.torch {
    tool_parser: 'compact',
    max_tokens_per_turn: 24,
  },
  scaffold: liverl.scaffold.repair,
  environment: liverl.environment.bubblewrap,

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
