// The dense model on one spot machine of EC2, as a managed job of SkyPilot: an interrupted machine is replaced in another zone or
// region, and the run goes on from the newest checkpoint in the bucket. Every trial is an ECS task.
//
//     liverl run specs/spot-ec2.jsonnet --target skypilot
local liverl = import 'liverl.libsonnet';
local site = import 'site.libsonnet';

(import 'dense-8gpu.jsonnet') + site.ec2 + {
  name: 'spot-ec2',
  environment: site.ec2.environment + liverl.environment.ecs {
    memory_mib: 4096,
    agent_timeout_sec: 1800,
    verifier_timeout_sec: 300,
    ecs+: { cpus: 2, ttl_sec: 3600 },
  },
  scaffold: liverl.scaffold.shell { max_turns: 60 },
  rollout+: { prompt_length: 4096 },  // the built-in agent's first prompt is short
  schedule+: { save_every: 5 },  // an interruption costs five steps at most
  secrets: [{ variable: 'WANDB_API_KEY', used_by: 'observability' }],
  observability: { loggers: ['console', 'file', 'wandb'] },
}
