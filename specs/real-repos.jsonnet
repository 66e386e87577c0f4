// The quickstart's loop on verified bugs in published packages. Their source distributions are fetched by pip, pinned and hashed.
// Tasks are split by function: no function that is trained on or demonstrated is ever held out.
local liverl = import 'liverl.libsonnet';
local packages = import 'packages.libsonnet';

(import 'quickstart.jsonnet') + {
  name: 'real-repos',

  local bugs(split, per_package) = liverl.tasks.generate {
    packages: [packages[name] for name in ['toolz', 'funcy', 'more-itertools', 'boltons', 'inflection', 'pyrsistent']],
    per_package: per_package,
    seed: $.seed,
    split: split,
  },

  // Instructions name the failing tests, and lines of real code are long: more tokens than generated repositories need.
  policy+: { architecture+: { max_position: 2048 }, warm_start+: {
    demonstrations: bugs('demonstrations', 25),
    steps: 600,
    informed_families: [],  // the quickstart's families do not occur in real code: here demonstrators know a share of all
  } },
  rollout+: { prompt_length: 512, response_length: 1536 },
  trainer+: { optimizer+: { learning_rate: 2e-4 } },  // few rewards: the quickstart's rate lets the policy forget
  schedule+: { steps: 20, validate_every: 20 },  // a trial runs a real test suite up to five times: half a second, not five milliseconds

  tasks: {
    train: [{ name: 'packages-train', source: bugs('train', 40) }],
    validation: [
      { name: 'packages-held-out', source: bugs('held_out', 32), temperature: 0 },  // 150 tasks or more
      { name: 'packages-held-out-sampled', source: bugs('held_out', 32), temperature: 1 },
    ],
    baselines: true,
  },
}
