// Twelve experiments from one comprehension: which learning rate, group size and seed learn the quickstart best?
// `liverl compile specs/sweep.jsonnet` writes build/quickstart-sweep/local/<point>/, one bundle per point, and a page that shows what varies.
local quickstart = import 'quickstart.jsonnet';

local point(rate, group, seed) = quickstart {
  seed: seed,
  algorithm+: { group_size: group },
  trainer+: { optimizer+: { learning_rate: rate } },
};

{
  name: 'quickstart-sweep',
  sweep: {
    // A point's name becomes its folder, and its experiment is called <name>-<point>.
    ['lr%s-g%d-s%d' % [rate.name, group, seed]]: point(rate.value, group, seed)
    for rate in [{ name: '2e-4', value: 2e-4 }, { name: '4e-4', value: 4e-4 }, { name: '8e-4', value: 8e-4 }]
    for group in [4, 8]
    for seed in [0, 1]
  },
}
