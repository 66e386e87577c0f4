// A site layer: what the owner of a cluster writes once. Experiments add it: (import 'site.libsonnet').h100 + { ... }.
// It names hardware and nothing of the experiment; every field can still be overridden after it.
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

  // Machines with eight H100 and 2 TiB of memory.
  h100: site {
    cluster+: {
      head: { cpus: 32, memory_gib: 128 },
      worker: { cpus: 160, memory_gib: 1800, gpus: 8, shm_gib: 256 },
    },
    trainer+: { gpu: 'H100', ranks_per_node: 8 },
  },

  // The same with H200.
  h200: self.h100 { trainer+: { gpu: 'H200' } },
}
