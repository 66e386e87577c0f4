#!/usr/bin/env bash
# Compiled by LiveRL. Change the spec, not this file.
# Submits this bundle to a running Ray cluster and follows it. RAY_ADDRESS goes before the address of the spec; further
# arguments go to `ray job submit` (for example --no-wait).
# Where the cluster asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN must be set here as on its nodes.
set -euo pipefail
cd "$(dirname "$0")"
exec ray job submit \
  --address "${RAY_ADDRESS:-http://127.0.0.1:8265}" \
  --working-dir . \
  --runtime-env runtime-env.yaml \
  --metadata-json '{"experiment": "ppo-8gpu"}' \
  "$@" \
  -- bash -c 'LIVERL_RAY_ADDRESS=$RAY_ADDRESS exec python -m liverl run . --runs-dir /runs --resume auto'
