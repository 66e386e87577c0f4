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
FLASH_ATTENTION = "flash-attn==2.8.3.post2"
"""Has no wheel for this torch: images compile it."""
CUDA_COMPILER = {
    "nvidia-cuda-cccl": "13.0.85",
    "nvidia-cuda-crt": "13.0.88",
    "nvidia-cuda-nvcc": "13.0.88",
    "nvidia-nvvm": "13.0.88",
}
"""nvcc as packages, of the CUDA that torch is built for."""
ARCHITECTURES = {
    **dict.fromkeys(("A10G", "A100", "A100-80GB", "L4", "L40S"), "80"),
    **dict.fromkeys(("H100", "H200"), "90"),
    "B200": "100",
}
"""GPU -> the kernels of flash-attn that it runs."""
