"""Makes the quickstart's small policy (tokenizer, architecture, warm start) and scores the scripted baselines."""
