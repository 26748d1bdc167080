"""EfficientNet-Lite2 as one would first write it in eager PyTorch: `mini_vision.py`'s floor, and the tests' truth."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

_STAGES = ((3, 1, 1, 1), (3, 2, 6, 3), (5, 2, 6, 3), (3, 2, 6, 4), (5, 1, 6, 4), (5, 2, 6, 5), (3, 1, 6, 1))


class _SameConv(nn.Conv2d):
    """TensorFlow's SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = (math.ceil(side / self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side
            pads += [max(total, 0) // 2, max(total, 0) - max(total, 0) // 2]
        return super().forward(F.pad(x, pads))


def _layer(inputs: int, outputs: int, kernel: int, stride: int, groups: int, active: bool) -> nn.Sequential:
    layers = [
        _SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, nn.ReLU6()) if active else nn.Sequential(*layers)


class NaiveTower(nn.Module):
    """Float `[B, 3, 260, 260]`, already normalised, to logits `[B, 1000]`."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = _layer(3, 32, 3, 2, 1, True)
        names = ["_conv_stem _bn0"]
        self.blocks = nn.ModuleList()
        self.inner: list[bool] = []
        width, number = 32, 0
        for kernel, first_stride, expansion, repeats in _STAGES:
            for repeat in range(repeats):
                name, wide = f"_blocks.{number}.", width * expansion
                outputs = state[f"{name}_project_conv.weight"].shape[0]
                layers = []
                if expansion > 1:
                    layers.append(_layer(width, wide, 1, 1, 1, True))
                    names.append(f"{name}_expand_conv {name}_bn0")
                layers.append(_layer(wide, wide, kernel, first_stride if repeat == 0 else 1, wide, True))
                layers.append(_layer(wide, outputs, 1, 1, 1, False))
                names += [f"{name}_depthwise_conv {name}_bn1", f"{name}_project_conv {name}_bn2"]
                self.blocks.append(nn.Sequential(*layers))
                self.inner.append(repeat > 0)
                width, number = outputs, number + 1
        self.head = _layer(width, 1280, 1, 1, 1, True)
        self.classifier = nn.Linear(1280, 1000)
        self._load(state, [*names, "_conv_head _bn1"])
        self.eval().requires_grad_(False)

    def _load(self, state: Mapping[str, Tensor], names: list[str]) -> None:
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for pair, convolution, norm in zip(names, convolutions, norms, strict=True):
            for name, module in zip(pair.split(), (convolution, norm), strict=True):
                module.load_state_dict({key: state[f"{name}.{key}"] for key in module.state_dict()})
        self.classifier.load_state_dict({key: state[f"_fc.{key}"] for key in ("weight", "bias")})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, inner in zip(self.blocks, self.inner, strict=True):
            x = block(x) + x if inner else block(x)
        return self.classifier(self.head(x).mean((2, 3)))
