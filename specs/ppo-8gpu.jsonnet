// The dense model with PPO: a critic of the same size beside the policy.
local liverl = import 'liverl.libsonnet';

(import 'dense-8gpu.jsonnet') + {
  name: 'ppo-8gpu',
  algorithm: liverl.algorithm.ppo { group_size: 4, critic: { learning_rate: 1e-5, warmup_steps: 10 }, gae_lambda: 0.95 },
}
