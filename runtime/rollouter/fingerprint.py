"""One short string that tells whether two sets of named tensors hold the same values.

It knows neither models nor versions. Trainer and replicas compare it before rollouts go on, so a weight sync that lost,
swapped or rounded a single element cannot pass silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import torch
from torch import Tensor

_DIGEST_BYTES = 16
_HALF_TYPES = (torch.bfloat16, torch.float16)


def fingerprint(named_tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest (32 characters) of names, shapes and values; about 1 ms per million bytes on one core.

    Independent of the order of the names, of strides and device, and of whether a value is held as bfloat16, float16 or
    float32 (both widenings are exact). Raises ``ValueError`` when a name comes twice.
    """
    pairs = named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors
    digests: dict[str, bytes] = {}
    for name, tensor in pairs:
        if name in digests:
            raise ValueError(f"fingerprint: the tensor {name!r} came twice")
        digests[name] = _digest(tensor.detach())
    whole = blake2b(digest_size=_DIGEST_BYTES)
    for name in sorted(digests):
        encoded = name.encode()
        whole.update(len(encoded).to_bytes(4, "little") + encoded + digests[name])
    return whole.hexdigest()


def _digest(tensor: Tensor) -> bytes:
    if tensor.dtype in _HALF_TYPES:
        tensor = tensor.float()
    values = tensor.cpu().contiguous()
    header = f"{values.dtype}{tuple(values.shape)}".encode()
    one = blake2b(header, digest_size=_DIGEST_BYTES)
    one.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return one.digest()
