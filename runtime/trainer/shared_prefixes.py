"""verl's FSDP engine with the rows of a micro-batch as a tree: what several begin with goes through the model once.

verl's ``model.external_lib`` imports this module where ``trainer.share_prefixes`` of the spec asks for it; it takes the
place of ``FSDPEngineWithLMHead`` and of ``prepare_micro_batches`` (``verl/workers/engine/fsdp/transformer_impl.py``,
0.9.1) in that process. verl's losses, entropies and gradients stay as they are: they see every row whole. Its own
``use_prefix_grouper`` is read by no engine of that version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine import base
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from runtime.config.model_layers import layers_with_state
from runtime.trainer.cuda import varlen
from runtime.trainer.prefix_tree import Row, Tree, cut, tree_of

SHARE = "forwarded_tokens_share"
"""Metric of an update (``actor/``): tokens that went through the model, of the tokens of all rows."""


class SharedPrefixes(FSDPEngineWithLMHead):  # type: ignore[misc]
    _tree: Tree

    def _build_module(self) -> Any:
        module = super()._build_module()
        config = module.config.get_text_config()
        # What no file said: the class may make the list itself.
        if others := layers_with_state({**config.to_dict(), "layer_types": getattr(config, "layer_types", None)}):
            raise ValueError(f"trainer.share_prefixes: this model has layers of {', '.join(others)}: false")
        assert config._attn_implementation == varlen.NAME and self.use_remove_padding and not self.use_ulysses_sp
        body = getattr(module, module.base_model_prefix)
        body.register_forward_pre_hook(self._as_tree, with_kwargs=True)
        body.register_forward_hook(self._what_predicts)
        return module

    def _as_tree(self, _module: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        tree = self._tree
        keys = varlen.Keys(tree.keys, tree.key_bounds, tree.longest_row)
        return args, {**inputs, "pack_bounds": tree.bounds, "pack_longest": tree.longest, "pack_keys": keys}

    def _what_predicts(self, _module: Any, _args: Any, output: Any) -> Any:
        """Of each token what the head is to predict it from, once: a token that several others follow is there for each
        of them."""
        output.last_hidden_state = output.last_hidden_state[:, self._tree.before]
        return output

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        temperature = micro_batch["temperature"]
        if isinstance(temperature, Tensor) and float(temperature.min()) != float(temperature.max()):
            raise ValueError("trainer.share_prefixes: rows of several temperatures")
        self._tree = tree_of(rows_of(micro_batch)).to(get_device_id())
        loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        if not forward_only:
            output["metrics"][SHARE] = len(self._tree.kept) / len(self._tree.place)
        return loss, output

    def prepare_model_inputs(self, micro_batch: Any) -> Any:
        inputs, outputs = super().prepare_model_inputs(micro_batch)
        assert not outputs["pad_size"] and inputs["position_ids"].dim() == 2
        tree = self._tree
        ids = inputs["input_ids"][:, tree.kept]
        inputs |= {"input_ids": ids, "position_ids": tree.positions.unsqueeze(0)}
        if "shift_labels" in inputs:
            inputs["shift_labels"] = ids
        temperature = outputs["temperature_rmpad"][tree.kept]
        return inputs, {**outputs, "input_ids_rmpad_rolled": ids[0], "temperature_rmpad": temperature}

    def _gather_and_unpad_packed(self, tensor: Tensor, pad_size: int) -> Any:
        """Here verl has what it wants to know of every token, and lays it out in rows."""
        return super()._gather_and_unpad_packed(tensor, pad_size)[self._tree.following]


def rows_of(data: Any) -> list[Row]:
    return [row.cpu().numpy() for row in data["input_ids"].unbind()]


def micro_batches(data: Any, dp_group: Any, same_micro_num_in_dp: bool) -> tuple[list[Any], list[list[int]]]:
    """As verl's, with rows that begin alike in one micro-batch, and the budget of tokens counted in the tree."""
    rows = rows_of(data)
    if tensordict_utils.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True):
        tokens = int(data["max_token_len_per_gpu"])
        longest = max(len(row) for row in rows)
        if longest > tokens:
            raise ValueError(f"a row of {longest} tokens is longer than a micro-batch of {tokens}")
        number = torch.tensor([len(cut(rows, tokens=tokens))], device=get_device_name())
        if same_micro_num_in_dp:
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX, group=dp_group)
        parts = cut(rows, tokens=tokens, at_least=int(number))
    else:
        parts = cut(rows, count=int(data["micro_batch_size_per_gpu"]))
        tensordict_utils.assign_non_tensor(data, use_dynamic_bsz=True)  # verl then puts the rows back in order
    return [tensordict_utils.index_select_tensor_dict(data, part) for part in parts], parts


transformer_impl.prepare_micro_batches = micro_batches
for backend in ("fsdp", "fsdp2"):
    # verl's registry refuses a second engine of one name. A run on a CPU looks it up as one on GPUs does.
    base.EngineRegistry._engines["language_model"][backend]["cuda"] = SharedPrefixes
