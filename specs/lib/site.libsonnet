// A site layer: what the owner of a cluster writes once. Experiments add it: (import 'site.libsonnet').h100 + { ... }.
// It names hardware, places and secrets and nothing of the experiment; every field can still be overridden after it.
{
  local site = {
    cluster: {
      namespace: 'rl',
      image: 'registry.example.com/liverl:0.1.0',
      storage: { size_gib: 2000, storage_class: 'fast-ssd' },
      deadline_sec: 5 * 86400,
      max_sandboxes: 256,
    },
  },

  // Where policies lie: the first that the platform can mount. Filled once with `hf download OWNER/NAME --cache-dir FOLDER`.
  local weights = {
    sources: [
      { type: 'claim', name: 'weights' },  // Kubernetes
      { type: 'bucket', url: 's3://example-weights/hub' },  // SkyPilot
      { type: 'host', path: '/srv/weights' },  // Compose
      { type: 'present' },  // a standing Ray: on its nodes
    ],
  },

  // Machines with eight H100 and 2 TiB of memory. Pods: a head without GPUs beside the machines; Compose: one such machine.
  h100: site {
    local machine = { cpus: 160, memory_gib: 1800, gpus: 8, shm_gib: 256 },
    cluster+: {
      head: { cpus: 32, memory_gib: 128 },
      worker: machine,
      weights: weights,
      docker: { machine: machine },
      skypilot: { accelerator: 'H100', disk_gib: 1024 },
    },
    trainer+: { gpu: 'H100', ranks_per_node: 8 },
  },

  // The same with H200.
  h200: self.h100 { cluster+: { skypilot+: { accelerator: 'H200' } }, trainer+: { gpu: 'H200' } },

  // Sandboxes as pods under gVisor, for experiments on Kubernetes; added to machines: h200 + pods. Their image is on the nodes before
  // the first trial, and a run whose sandboxes reach the API server does not start.
  pods: {
    local box = 'registry.example.com/liverl-box:0.1.0',
    cluster+: { sandboxes: { runtime_class: 'gvisor', prepull: [box] } },
    environment+: {
      network: { agent: 'model', verifier: 'none' },
      kubernetes+: {
        image: box,
        namespace: 'rl-sandboxes',
        runtime_class: 'gvisor',
        require_isolation: true,
        egress_probes: ['10.96.0.1:443'],
      },
    },
  },

  // Everything that the site's platforms want to know, for experiments that move between them: Kueue and gVisor on Kubernetes, a
  // Docker host for sandboxes, EC2 with a bucket, a standing Ray cluster. Each target reads its own part.
  everywhere: site {
    cluster+: {
      storage+: { bucket: 's3://example-runs' },
      queue: { type: 'kueue', name: 'research', priority_class: 'batch' },
      priority: 1000,
      sandboxes: {
        runtime_class: 'gvisor',
        runtime_handler: 'runsc',
        node_selector: { 'example.com/pool': 'sandboxes' },
        tolerations: [{ key: 'example.com/sandboxes', effect: 'NoSchedule' }],
      },
      monitor: true,
      docker: { sandbox_host: 'tcp://sandboxes.example.com:2376' },
      skypilot: { infra: 'aws/us-east-1' },
      ray: { address: 'https://ray.example.com', runs_dir: '/shared/runs' },
    },
    // The experiment tracker; its key is a Secret of the cluster, elsewhere a variable of the shell that launches.
    observability+: { loggers: ['console', 'file', 'wandb'] },
    secrets: [{ variable: 'WANDB_API_KEY', used_by: 'observability', kubernetes: { name: 'wandb', key: 'api-key' } }],
  },

  // Spot machines of EC2 with eight H100; sandboxes are Fargate tasks in the same VPC. The role of the machines may run and stop
  // tasks, and the security group of the tasks lets them reach port 8790 of the machines and nothing else.
  ec2: site {
    cluster+: {
      worker: { cpus: 160, memory_gib: 1800, gpus: 8, shm_gib: 256 },
      storage: { bucket: 's3://example-runs' },
      weights: weights,
      skypilot: { infra: 'aws/us-east-1', accelerator: 'H100', nodes: 1, spot: true, disk_gib: 1024 },
    },
    trainer+: { gpu: 'H100', ranks_per_node: 8 },
    environment+: {
      ecs+: {
        cluster: 'sandboxes',
        image: '123456789012.dkr.ecr.us-east-1.amazonaws.com/liverl-box:0.1.0',
        region: 'us-east-1',
        subnets: ['subnet-0a1b2c3d4e5f60718'],
        security_groups: ['sg-0a1b2c3d4e5f60718'],
        execution_role_arn: 'arn:aws:iam::123456789012:role/ecs-task-execution',
      },
    },
  },
}
