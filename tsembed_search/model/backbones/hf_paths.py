"""Parallel paths in a transformers model: learned tokens after the input, or keys and values before it at every layer.

transformers drops a cache of keys and values under gradient checkpointing, so a prefix given as one would be lost. Here
attention itself puts it in front, and takes it from the trace, which is there again when a layer is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.model.routing import Routing

_NAME = "tsembed_prefixed"
_ROUTING = "_tsembed_routing"


@contextmanager
def seeing_once(model: nn.Module) -> Iterator[None]:
    """Inside, the vision tower, which no path changes, runs in the first pass alone."""
    whole: Any = model
    found: list[Any] = []
    look = whole.get_image_features

    def look_once(*given: Any, **more: Any) -> Any:
        if not found:
            found.append(look(*given, **more))
        return found[0]

    whole.get_image_features = look_once
    try:
        yield
    finally:
        del whole.get_image_features


@contextmanager
def after(model: nn.Module, suffix: Tensor | None, lengths: Tensor) -> Iterator[None]:
    """Inside, learned tokens `[K, d]` stand after each row's own, of `lengths` `[B]`, where its ids have padding."""
    if suffix is None:
        yield
        return
    rows = torch.arange(len(lengths), device=lengths.device)[:, None]
    places = lengths[:, None] + torch.arange(len(suffix), device=lengths.device)

    def put(table: nn.Module, given: Any, embedded: Tensor) -> Tensor:
        return embedded.index_put((rows, places), suffix.to(embedded.dtype).expand(len(rows), -1, -1))

    handle = cast(Any, model).get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def use_prefixes(model: nn.Module, routing: Routing) -> None:
    """Let a decoder's layers see the prefix that `routing` has in its trace. Its vision tower stays as it is."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, attention)
    config = cast(Any, model).config.get_text_config()
    for module in model.modules():
        if getattr(module, "config", None) is config and hasattr(module, "k_proj"):
            object.__setattr__(module, _ROUTING, routing)
    config._attn_implementation = _NAME


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **more: Any
) -> tuple[Tensor, None]:
    """Causal attention `[B, H, T, d]` over right-padded rows, all of which see the whole prefix. Gives `[B, T, H, d]`.

    No mask is needed for padding: it stands at the end, where nothing real looks.
    """
    trace = getattr(module, _ROUTING).trace
    prefix = None if trace is None else trace.prefix
    grouped = key.shape[1] != query.shape[1]
    mask = None
    if prefix is not None:
        keys, values = (one[module.layer_idx].to(key.dtype) for one in prefix)  # [n, heads · d]
        shape = len(key), -1, -1, -1
        before = [one.view(1, len(one), key.shape[1], -1).transpose(1, 2).expand(shape) for one in (keys, values)]
        key, value = (torch.cat([one, own], 2) for one, own in zip(before, (key, value), strict=True))
        length, count = query.shape[2], len(keys)
        mask = torch.ones(length, count + length, dtype=torch.bool, device=query.device).tril(count)
    scale = more.get("scaling")
    mixed = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
    return mixed.transpose(1, 2).contiguous(), None
