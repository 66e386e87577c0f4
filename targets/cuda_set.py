"""The versions that go together on NVIDIA GPUs. Read by ``scripts/install_gpu.sh`` alone too: it imports nothing."""

CUDA = {
    "python": "3.11",
    "ray": "2.60.0",
    "tensordict": "0.10.0",
    "torch": "2.11.0",
    "transferqueue": "0.1.11",
    "transformers": "5.9.0",
    "verl": "0.9.1",
    "vllm": "0.24.0",
}
OVERRIDES = {"apache-tvm-ffi": "0.1.15.post2"}
"""vLLM asks for an older one, with which its own xgrammar does not import."""
