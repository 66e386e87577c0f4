"""Training on GPUs: verl's own platform and vLLM replicas, with an HTTP gate of ours and weights that are verified."""
