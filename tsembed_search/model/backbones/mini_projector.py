"""What mini learns to see: from the vision tower's features to the model's tokens, beside the soft caption.

The soft caption says which of a thousand classes a picture resembles, and nothing else. The projector adds to each of
its tokens what the features say: of the whole picture, and of one quarter of it, so that places count, too. It starts
at zero, so that an untrained one changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.model.backbones.mini_encoder import HIDDEN

FEATURES = 1280
"""Channels of the vision tower's last layer."""
PARTS = 4
"""A picture's quarters, one for each token of the soft caption."""


def parts(features: Tensor) -> Tensor:
    """The tower's last layer `[P, 1280, 9, 9]`, averaged over quarters that overlap: `[P, 4, 1280]`, row by row."""
    return functional.avg_pool2d(features, 6, 3).flatten(2).transpose(1, 2)


class Projector(nn.Module):
    """Token i is `caption_i + W_i n(mean of the parts) + V n(part i)`, n being the layer norm without weights."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.whole = nn.Linear(FEATURES, PARTS * HIDDEN)
        self.part = nn.Linear(FEATURES, HIDDEN)
        for layer in (self.whole, self.part):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.to(device)

    def forward(self, captions: Tensor, features: Tensor) -> Tensor:
        """Soft captions `[P, 4, 384]` and features `[P, 4, 1280]` to tokens `[P, 4, 384]`."""
        whole = self.whole(functional.layer_norm(features.mean(1), (FEATURES,)))
        part = self.part(functional.layer_norm(features, (FEATURES,)))
        tokens: Tensor = captions + whole.unflatten(1, (PARTS, HIDDEN)) + part
        return tokens
