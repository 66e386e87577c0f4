// Source distributions that ship fast tests, pinned by version and SHA-256. pip fetches them when tasks are made.
{
  boltons: { name: 'boltons', version: '26.2.0', sha256: 'd39cfd15c1a1c3bd4d705c82252fa9edb8e4f5e8cc039f8e39afac7b1b47e92c' },
  funcy: { name: 'funcy', version: '2.1', sha256: '8979feb3de7120afd1d00e5a8eae810c1942e4bfbc91697151e9ee1e49f79284' },
  humanize: { name: 'humanize', version: '4.17.0', sha256: '1d6a36c453dbfbb3f0b34601d2e0b4ce5d48d780305cd45714843f0068fde6ac' },
  inflection: { name: 'inflection', version: '0.5.1', sha256: '1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417' },
  'more-itertools': { name: 'more-itertools', version: '11.2.1', sha256: 'cbf08fd0af284dc69718b9b76a8e6203df624d70209ea511e4219d350c856f63' },
  pyrsistent: { name: 'pyrsistent', version: '0.20.0', sha256: '4c48f78f62ab596c679086084d0dd13254ae4f3d6c72a83ffdf5ebdef8f265a4' },
  'python-slugify': { name: 'python-slugify', version: '9.2.0', sha256: 'cee32948083476013804de1667724fb1362dacb71e47b1d5d92adf8db6ee3298' },
  textdistance: { name: 'textdistance', version: '4.6.3', sha256: 'd6dabc50b4ea832cdcf0e1e6021bd0c7fcd9ade155888d79bb6a3c31fce2dc6f' },
  toolz: { name: 'toolz', version: '1.2.0', sha256: '9667a038e9d6ecba37995e26cb2f59ec6420b6ad8dd9677de59db9b956b08490' },
}
