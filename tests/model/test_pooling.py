"""Pooling over real tokens only."""

from __future__ import annotations

import torch

from tsembed_search.model.backbones.hf import last_token, mean, unit

HIDDEN = torch.arange(24.0).view(2, 4, 3)
LENGTHS = torch.tensor([4, 2])


def test_last_token() -> None:
    torch.testing.assert_close(last_token(HIDDEN, LENGTHS), torch.stack([HIDDEN[0, 3], HIDDEN[1, 1]]))


def test_mean_ignores_padding_whatever_it_holds() -> None:
    spoiled = HIDDEN.clone()
    spoiled[1, 2:] = torch.nan
    expected = torch.stack([HIDDEN[0].mean(0), HIDDEN[1, :2].mean(0)])
    torch.testing.assert_close(mean(spoiled, LENGTHS), expected)


def test_unit() -> None:
    vectors = unit(HIDDEN[:, 1].to(torch.bfloat16))
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
