#!/usr/bin/env bash
# Compiled by LiveRL. Change the spec, not this file.
# Submits this bundle to a running Ray cluster and follows it. RAY_ADDRESS goes before the address of the spec; further
# arguments go to `ray job submit` (for example --no-wait).
# Where the cluster asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN must be set here as on its nodes.
set -euo pipefail
cd "$(dirname "$0")"
# Needed in the environment of the cluster's nodes: WANDB_API_KEY
exec ray job submit \
  --address "${RAY_ADDRESS:-https://ray.example.com}" \
  --working-dir . \
  --runtime-env runtime-env.yaml \
  --metadata-json '{"experiment": "quickstart-site"}' \
  "$@" \
  -- bash -c 'LIVERL_RAY_ADDRESS=$RAY_ADDRESS exec python -m liverl run . --runs-dir /shared/runs --resume auto'
