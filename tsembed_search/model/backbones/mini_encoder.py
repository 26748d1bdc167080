"""MiniLM's encoder, small enough to own: importing transformers' BERT classes costs more time than importing torch.

The module tree and the parameter names are those of transformers' `BertModel`, so that its checkpoints, and adapters
made for it, fit. Its input is vectors, not ids, so that tokens of another origin can stand among word pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from tsembed_search.model.parallel import ParallelPaths

HIDDEN = 384
_HEADS = 12
_LAYERS = 6
_INNER = 1536
_VOCABULARY = 30522
_POSITIONS = 512
_EPSILON = 1e-12


Prefix = tuple[Tensor, Tensor] | None
"""Keys and values `[n, 384]` of one layer that stand before the input's own."""


@dataclass(frozen=True)
class Suffix:
    """Learned tokens after the input. `place` `[B, T]` int64: 0 on the input, p on the tokens of path p, from 1 to
    P - 1. They see the input and their own path; the input sees only itself, so it is what it is without them.
    """

    place: Tensor
    paths: ParallelPaths

    def mask(self, real: Tensor | None) -> Tensor:
        """Return the tokens that each token sees: `[B, 1, T, T]` bool."""
        seen = (self.place[:, None, :] == 0) | (self.place[:, None, :] == self.place[:, :, None])
        return (seen if real is None else seen & real[:, None, :]).unsqueeze(1)

    def pooled(self, hidden: Tensor, real: Tensor | None) -> Tensor:
        """The unit vector of each path `[B, P, 384]`, from means over the input and over each path's tokens."""
        own = self.place == 0 if real is None else real & (self.place == 0)
        others = torch.arange(1, 1 + len(self.paths.tokens), device=hidden.device)
        members = torch.cat([own.unsqueeze(1), self.place[:, None, :] == others[:, None]], 1).to(hidden.dtype)
        means = members @ hidden / members.sum(-1, keepdim=True)
        return self.paths.beside(means[:, 0], means[:, 1:])


def _table(rows: int) -> nn.Embedding:
    """An embedding without initial values: drawing them on the meta device imports torch's compiler, which takes
    longer than importing torch.
    """
    return nn.Embedding(rows, HIDDEN, _weight=torch.empty(rows, HIDDEN))


class _Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = _table(_VOCABULARY)
        self.position_embeddings = _table(_POSITIONS)
        self.token_type_embeddings = _table(2)
        self.LayerNorm = nn.LayerNorm(HIDDEN, eps=_EPSILON)

    def forward(self, words: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: words.shape[1]]
        embedded: Tensor = self.LayerNorm(words + positions + self.token_type_embeddings.weight[0])
        return embedded


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(HIDDEN, HIDDEN)
        self.key = nn.Linear(HIDDEN, HIDDEN)
        self.value = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor, mask: Tensor | None, prefix: Prefix = None) -> Tensor:
        rows, length, _ = hidden.shape
        query, key, value = (
            layer(hidden).view(rows, length, _HEADS, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        if prefix is not None:
            key, value = (
                torch.cat([one.to(all_.dtype).view(1, len(one), _HEADS, -1).transpose(1, 2).expand(rows, -1, -1, -1),
                           all_], 2)
                for one, all_ in zip(prefix, (key, value), strict=True)
            )  # fmt: skip
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(rows, length, HIDDEN)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, eps=_EPSILON)

    def forward(self, hidden: Tensor, skipped: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(hidden) + skipped)
        return normed


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = _SelfAttention()
        self.output = _Residual(HIDDEN)

    def forward(self, hidden: Tensor, mask: Tensor | None, prefix: Prefix = None) -> Tensor:
        attended: Tensor = self.output(self.self(hidden, mask, prefix), hidden)
        return attended


class _Intermediate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(HIDDEN, _INNER)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.intermediate = _Intermediate()
        self.output = _Residual(_INNER)

    def forward(self, hidden: Tensor, mask: Tensor | None, prefix: Prefix = None) -> Tensor:
        attended = self.attention(hidden, mask, prefix)
        layer_output: Tensor = self.output(self.intermediate(attended), attended)
        return layer_output


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer() for _ in range(_LAYERS))


class MiniEncoder(nn.Module):
    """Six post-norm transformer layers of width 384 over word pieces and, if given, tokens of another origin."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Embeddings()
        self.encoder = _Stack()
        self.context_fn: Callable[[], Any] | None = None
        """With one, layers are computed again in the backward pass: see `torch.utils.checkpoint`."""

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> MiniEncoder:
        """Builds the encoder around tensors named as in `BertModel`; the pooler, which it does not use, is left out."""
        with torch.device("meta"):
            model = cls()
        wanted = model.state_dict().keys()
        model.load_state_dict({name: state[name] for name in wanted}, assign=True)
        return model.eval().requires_grad_(False)

    @property
    def places(self) -> int:
        """The most tokens of a sequence."""
        return _POSITIONS

    def words(self, ids: Tensor) -> Tensor:
        """The input vectors of word pieces: `ids [..., T]` to `[..., T, 384]`."""
        return F.embedding(ids, self.embeddings.word_embeddings.weight)

    def forward(
        self,
        words: Tensor,
        real: Tensor | None = None,
        suffix: Suffix | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        depths: Sequence[int] = (),
    ) -> Tensor:
        """Mean-pools a batch: input vectors `words [B, T, 384]` to unit vectors `[B, 384]`.

        `real [B, T]` bool is false on padding; None when there is none. With a `suffix`, vectors are `[B, P, 384]`, one
        of each path. `prefix`: keys and values `[L, n, 384]` that all tokens see, at each layer. With `depths`, which
        ascend, they are `[B, 1 + K, 384]`: behind the vector itself those after so many layers.
        """
        hidden = self.embeddings(words)
        mask = None if real is None else real[:, None, None, :]
        if suffix is not None:
            mask = suffix.mask(real)
        if prefix is not None and mask is not None:
            mask = F.pad(mask, (prefix[0].shape[1], 0), value=True)
        shallow: list[Tensor] = []
        for number, layer in enumerate(self.encoder.layer):
            own = None if prefix is None else (prefix[0][number], prefix[1][number])
            if self.context_fn is not None and self.training:
                from torch.utils.checkpoint import checkpoint

                hidden = checkpoint(layer, hidden, mask, own, use_reentrant=False, context_fn=self.context_fn)
            else:
                hidden = layer(hidden, mask, own)
            if number + 1 in depths:
                shallow.append(_mean(hidden, real))
        if suffix is not None:
            return suffix.pooled(hidden, real)
        vectors = _mean(hidden, real)
        return torch.stack([vectors, *shallow], 1) if shallow else vectors


def _mean(hidden: Tensor, real: Tensor | None) -> Tensor:
    """The mean over real tokens of `[B, T, 384]`, of unit length."""
    if real is None:
        return F.normalize(hidden.mean(dim=1), dim=-1)
    return F.normalize((hidden * real.unsqueeze(-1)).sum(dim=1), dim=-1)
