// The quickstart with GSPO: one line differs.
local liverl = import 'liverl.libsonnet';

(import 'quickstart.jsonnet') + {
  name: 'quickstart-gspo',
  algorithm: liverl.algorithm.gspo,
}
