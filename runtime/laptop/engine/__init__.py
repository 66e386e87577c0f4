"""The inference engine for a CPU: continuous batching over a small Qwen, and its server."""
