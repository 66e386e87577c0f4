// The quickstart with PPO and a critic: one line differs.
local liverl = import 'liverl.libsonnet';

(import 'quickstart.jsonnet') + {
  name: 'quickstart-ppo',
  algorithm: liverl.algorithm.ppo,
}
