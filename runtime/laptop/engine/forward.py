"""One forward pass over any mix of new tokens: decode steps and prefill suffixes of many sequences together, through a
slotted KV cache.

All linear layers see the new tokens of all sequences as one flat matrix without padding; only attention looks at
sequences. Knows neither requests nor sampling. The mathematics follow transformers' ``Qwen2ForCausalLM``,
``Qwen3ForCausalLM`` and ``Qwen3MoeForCausalLM`` in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from runtime.laptop.engine.mlp import Mixture
from runtime.laptop.engine.weights import Architecture, Layer, Weights

# Measured on two machines; a factor of two either way costs a few per cent.
_QUERIES_PER_PIECE = 64
_ROWS_PER_RUN = 3
_WORTH_SHARING_TOKENS = 1024


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence: ``tokens`` stand at positions ``start``, ``start + 1``, … of cache slot ``slot``.

    Slots of one ``family`` (not -1) hold the same first ``shared`` tokens, which may then be read once for all of them.
    """

    slot: int
    start: int
    tokens: NDArray[np.int64]
    family: int = -1
    shared: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class KVCache:
    """Keys and values of ``slots`` sequences of at most ``length`` tokens: per layer two tensors [slots, length, KV,
    D]. On demand also the experts that each layer of a mixture chose for each token: [slots, length, layers, K].

    A slot's leading positions are contiguous in memory, so that copying a prefix is one memcpy per layer.
    """

    def __init__(self, architecture: Architecture, *, slots: int, length: int, experts: bool = False) -> None:
        shape = (slots, length, architecture.num_key_value_heads, architecture.head_dim)
        # Zeros, because masked positions are multiplied by 0 and must therefore be finite.
        self.keys = [torch.zeros(shape) for _ in range(architecture.num_layers)]
        self.values = [torch.zeros(shape) for _ in range(architecture.num_layers)]
        self.experts: Tensor | None = None
        if experts and architecture.experts:
            chosen = (slots, length, architecture.num_layers, architecture.experts_per_token)
            self.experts = torch.zeros(chosen, dtype=torch.uint8 if architecture.experts <= 256 else torch.int16)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[target, :length] = tensor[source, :length]
        if self.experts is not None:
            self.experts[target, :length] = self.experts[source, :length]


class Rotary:
    """Cosine and sine tables [length, D]; the sine carries the sign of ``rotate_half``."""

    def __init__(self, architecture: Architecture, *, length: int) -> None:
        dim = architecture.head_dim
        inverse = 1.0 / (architecture.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
        angles = torch.outer(torch.arange(length).float(), inverse)
        self.cos = torch.cat([angles.cos(), angles.cos()], -1)
        self.sin = torch.cat([-angles.sin(), angles.sin()], -1)


class _Rows:
    """Attention of sequences with one query each, each over its own slot from position ``begin`` on.

    Slots side by side are a view; scattered ones are gathered.
    """

    def __init__(self, chunks: Sequence[Chunk], *, shared: Sequence[int] | None = None) -> None:
        """``shared``: leading positions that each row leaves to ``_Families``; None: no row does."""
        slots, ends = [chunk.slot for chunk in chunks], [chunk.end for chunk in chunks]
        self.slots = torch.tensor(slots)
        self.positions = torch.tensor(ends) - 1
        self.begin = min(shared) if shared else 0
        steps = [index for index in range(1, len(slots)) if slots[index] != slots[index - 1] + 1]
        runs = list(pairwise([0, *steps, len(slots)]))
        # One call per run reads the cache once; gathering reads, writes and reads again, but needs a single call.
        self.gather = len(runs) > 1 and len(runs) * _ROWS_PER_RUN > len(slots)
        self.runs = [
            (start, stop, slots[start], max(ends[start:stop]))
            for start, stop in ([(0, len(slots))] if self.gather else runs)
        ]
        position = torch.arange(self.begin, max(ends))[None, :]
        hidden = position > self.positions[:, None]
        if shared:
            hidden |= position < torch.tensor(shared)[:, None]
        self.mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None, :]

    def store(self, keys: Tensor, values: Tensor, key_cache: Tensor, value_cache: Tensor) -> None:
        key_cache[self.slots, self.positions] = keys
        value_cache[self.slots, self.positions] = values

    def attend(self, queries: Tensor, key_cache: Tensor, value_cache: Tensor) -> Tensor:
        """``queries`` [N, H, D] -> [N, H * D]."""
        return self.attend_with_mass(queries, key_cache, value_cache)[0].flatten(1)

    def attend_with_mass(self, queries: Tensor, key_cache: Tensor, value_cache: Tensor) -> tuple[Tensor, Tensor]:
        """``queries`` [N, H, D] -> output [N, H, D] and log of the softmax's denominator [N, H, 1]."""
        count, heads, dim = queries.shape
        # The heads of one group stand where a sequence's queries would.
        grouped = queries.reshape(count, key_cache.shape[2], -1, dim)
        outputs, masses = [], []
        for start, stop, first, longest in self.runs:
            keys, values = key_cache[:, self.begin : longest], value_cache[:, self.begin : longest]
            if self.gather:
                keys, values = keys.index_select(0, self.slots), values.index_select(0, self.slots)
            else:
                keys, values = keys[first : first + stop - start], values[first : first + stop - start]
            mask = self.mask[start:stop, ..., : longest - self.begin]
            output, mass = _flash(grouped[start:stop], keys.transpose(1, 2), values.transpose(1, 2), mask)
            outputs.append(output)
            masses.append(mass)
        output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        mass = torch.cat(masses) if len(masses) > 1 else masses[0]
        return output.reshape(count, heads, dim), mass.reshape(count, heads, 1)


class _Families:
    """Rows of several families: what a family shares is read from its first slot once, for the queries of all members
    together; then each row adds what is its own. Exact: the two parts are weighed by their softmax denominators."""

    def __init__(self, families: Sequence[Sequence[Chunk]]) -> None:
        members = sorted((chunk for family in families for chunk in family), key=lambda chunk: chunk.slot)
        row = {chunk.slot: index for index, chunk in enumerate(members)}
        lengths = [min(chunk.shared for chunk in family) for family in families]
        shared = {chunk.slot: length for family, length in zip(families, lengths, strict=True) for chunk in family}
        self.chunks = members
        self.own = _Rows(members, shared=[shared[chunk.slot] for chunk in members])
        self.parts = [
            (torch.tensor([row[chunk.slot] for chunk in family]), family[0].slot, length)
            for family, length in zip(families, lengths, strict=True)
        ]
        self.back = torch.cat([rows for rows, _, _ in self.parts]).argsort()

    def store(self, keys: Tensor, values: Tensor, key_cache: Tensor, value_cache: Tensor) -> None:
        self.own.store(keys, values, key_cache, value_cache)

    def attend(self, queries: Tensor, key_cache: Tensor, value_cache: Tensor) -> Tensor:
        """``queries`` [N, H, D] -> [N, H * D]."""
        own, own_mass = self.own.attend_with_mass(queries, key_cache, value_cache)
        _, heads, dim = queries.shape
        kv_heads = key_cache.shape[2]
        outputs, masses = [], []
        for rows, slot, length in self.parts:
            count = len(rows)
            together = queries[rows].view(count, kv_heads, -1, dim).transpose(0, 1).reshape(1, kv_heads, -1, dim)
            keys, values = key_cache[slot, :length], value_cache[slot, :length]
            output, mass = _flash(together, keys.transpose(0, 1)[None], values.transpose(0, 1)[None], None)
            outputs.append(output.reshape(kv_heads, count, -1, dim).transpose(0, 1).reshape(count, heads, dim))
            masses.append(mass.reshape(kv_heads, count, -1).transpose(0, 1).reshape(count, heads, 1))
        common, common_mass = torch.cat(outputs)[self.back], torch.cat(masses)[self.back]
        return torch.lerp(own, common, torch.sigmoid(common_mass - own_mass)).flatten(1)


def _flash(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What ``F.scaled_dot_product_attention`` runs on CPU, which drops the second result: log of the denominator."""
    output, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, attn_mask=mask)
    return output, mass


class _Block:
    """Causal attention of one sequence with several new tokens over its slot."""

    def __init__(self, chunk: Chunk) -> None:
        self.slot, self.start, self.end = chunk.slot, chunk.start, chunk.end
        later = torch.arange(chunk.end)[None, :] > torch.arange(chunk.start, chunk.end)[:, None]
        self.mask = torch.zeros(later.shape).masked_fill_(later, -torch.inf)[None, None]

    def store(self, keys: Tensor, values: Tensor, key_cache: Tensor, value_cache: Tensor) -> None:
        key_cache[self.slot, self.start : self.end] = keys
        value_cache[self.slot, self.start : self.end] = values

    def attend(self, queries: Tensor, key_cache: Tensor, value_cache: Tensor) -> Tensor:
        """``queries`` [T, H, D] -> [T, H * D]; in pieces, each over no more keys than its last query sees."""
        count = len(queries)
        pieces = max(1, round(count / _QUERIES_PER_PIECE))
        bounds = [count * piece // pieces for piece in range(pieces + 1)]
        queries = queries.transpose(0, 1)[None]
        keys = key_cache[self.slot].transpose(0, 1)[None]
        values = value_cache[self.slot].transpose(0, 1)[None]
        parts = []
        for begin, stop in pairwise(bounds):
            seen = self.start + stop
            parts.append(
                F.scaled_dot_product_attention(
                    queries[:, :, begin:stop],
                    keys[:, :, :seen],
                    values[:, :, :seen],
                    attn_mask=self.mask[:, :, begin:stop, :seen],
                    enable_gqa=True,
                )
            )
        out = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
        return out[0].transpose(0, 1).flatten(1)


class _Plan:
    """Everything about one pass that is the same in all layers: single tokens first, then the longer chunks."""

    def __init__(self, chunks: Sequence[Chunk], rotary: Rotary) -> None:
        longer = [chunk for chunk in chunks if len(chunk.tokens) > 1]
        loners, families = _split_families([chunk for chunk in chunks if len(chunk.tokens) == 1])
        placed = list(loners)
        self.groups: list[tuple[int, int, _Rows | _Families | _Block]] = []
        if loners:
            self.groups.append((0, len(loners), _Rows(loners)))
        if families:
            together = _Families(families)
            placed += together.chunks
            self.groups.append((len(loners), len(placed), together))
        end = len(placed)
        for chunk in longer:
            begin, end = end, end + len(chunk.tokens)
            self.groups.append((begin, end, _Block(chunk)))
        placed += longer
        positions = torch.from_numpy(np.concatenate([np.arange(chunk.start, chunk.end) for chunk in placed]))
        self.tokens = torch.from_numpy(np.concatenate([chunk.tokens for chunk in placed]))
        self.placed, self.positions = placed, positions
        self.cos, self.sin = rotary.cos[positions][:, None], rotary.sin[positions][:, None]
        # Where every chunk is one token, all layers are alike.
        self.final = _Rows(placed) if longer else None
        self.last = torch.from_numpy(np.cumsum([len(chunk.tokens) for chunk in placed]) - 1)
        # Row of the result that belongs to each of the caller's chunks.
        row = {chunk.slot: index for index, chunk in enumerate(placed)}
        order = [row[chunk.slot] for chunk in chunks]
        self.order = None if order == list(range(len(order))) else torch.tensor(order)

    def slots(self) -> Tensor:
        """Of each token."""
        lengths = torch.tensor([len(chunk.tokens) for chunk in self.placed])
        return torch.tensor([chunk.slot for chunk in self.placed]).repeat_interleave(lengths)


def _split_families(singles: Sequence[Chunk]) -> tuple[list[Chunk], list[list[Chunk]]]:
    """Rows on their own, by slot, and families for which reading their shared tokens once saves more than it costs."""
    by_family: dict[int, list[Chunk]] = {}
    for chunk in singles:
        by_family.setdefault(chunk.family, []).append(chunk)
    families = [
        members
        for family, members in by_family.items()
        if family >= 0 and (len(members) - 1) * min(chunk.shared for chunk in members) >= _WORTH_SHARING_TOKENS
    ]
    taken = {chunk.slot for members in families for chunk in members}
    loners = sorted((chunk for chunk in singles if chunk.slot not in taken), key=lambda chunk: chunk.slot)
    return loners, families


def forward(weights: Weights, cache: KVCache, rotary: Rotary, chunks: Sequence[Chunk]) -> Tensor:
    """Write keys and values of every new token into the cache; return next-token logits [len(chunks), V] after each
    chunk's last token. Chunks must stand in distinct slots.
    """
    arch = weights.architecture
    heads, eps = arch.num_heads, arch.rms_norm_eps
    plan = _Plan(chunks, rotary)
    hidden = F.embedding(plan.tokens, weights.embedding)
    final = len(weights.layers) - 1
    slots = None if cache.experts is None else plan.slots()
    for index, layer in enumerate(weights.layers):
        key_cache, value_cache = cache.keys[index], cache.values[index]
        normed = F.rms_norm(hidden, (arch.hidden_size,), layer.attention_norm, eps)
        turned, values = _project(layer, arch, normed, plan.cos, plan.sin)
        queries, keys = turned[:, :heads], turned[:, heads:]
        for begin, end, group in plan.groups:
            group.store(keys[begin:end], values[begin:end], key_cache, value_cache)
        if index == final and plan.final is not None and cache.experts is None:
            # Only each chunk's last token is asked for, so the last layer's attention and MLP see no others; but
            # where a mixture's choices are kept, they are for every token.
            hidden = hidden[plan.last]
            attended = plan.final.attend(queries[plan.last], key_cache, value_cache)
        else:
            parts = [group.attend(queries[begin:end], key_cache, value_cache) for begin, end, group in plan.groups]
            attended = torch.cat(parts) if len(parts) > 1 else parts[0]
        hidden = hidden + layer.out(attended)
        normed = F.rms_norm(hidden, (arch.hidden_size,), layer.mlp_norm, eps)
        if isinstance(layer.mlp, Mixture):
            added, experts = layer.mlp(normed)
            if cache.experts is not None:
                cache.experts[slots, plan.positions, index] = experts.to(cache.experts.dtype)
        else:
            added = layer.mlp(normed)
        hidden = hidden + added
    if cache.experts is not None and plan.final is not None:
        hidden = hidden[plan.last]
    logits = weights.head(F.rms_norm(hidden, (arch.hidden_size,), weights.norm, eps))
    return logits if plan.order is None else logits[plan.order]


def _project(layer: Layer, arch: Architecture, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, normed (Qwen3) and rotated [N, H + KV, D], and values [N, KV, D] of ``normed`` [N, C]."""
    both, half = arch.num_heads + arch.num_key_value_heads, arch.head_dim // 2
    qkv = layer.qkv(normed).view(len(normed), -1, arch.head_dim)
    part = qkv[:, :both]
    if layer.qk_norm is not None:
        part = F.rms_norm(part, (arch.head_dim,), None, arch.rms_norm_eps) * layer.qk_norm
    swapped = torch.cat((part[..., half:], part[..., :half]), -1)
    return swapped.mul_(sin).addcmul_(part, cos), qkv[:, both:]
