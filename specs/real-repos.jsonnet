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

  policy+: { warm_start+: { demonstrations: bugs('demonstrations', 100) } },

  tasks: {
    train: [{ name: 'packages-train', source: bugs('train', 80) }],
    validation: [
      { name: 'packages-held-out', source: bugs('held_out', 40), temperature: 0 },  // 150 tasks or more
      { name: 'packages-held-out-sampled', source: bugs('held_out', 40), temperature: 1 },
    ],
    baselines: true,
  },
}
