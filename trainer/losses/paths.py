"""Losses on parallel paths: each has to find its target, and they have to differ.

That each path is trained by its own contrastive loss beside that of the aggregate, and that vCLUB lowers the mutual
information between paths, is the paper's (PDF, *Explore More, Learn Better*, arXiv 2511.01588). What it says of neither
form nor weights is ours: which pairs there are, how q is fitted, the warm-up, and that an estimate below 0 counts as 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.trainer.losses.base import LossInputs
from tsembed_search.trainer.losses.contrastive import InfoNCE

_LEAST, _MOST = -6.0, 4.0  # log-variances: beyond them a density says more than so few items can
_BETAS = 0.9, 0.999


class PathContrastive(nn.Module):
    """The mean over paths of InfoNCE of each path alone, with the masks and weights of the whole."""

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        self._each = InfoNCE(temperature)

    def forward(self, batch: LossInputs) -> Tensor:
        """Return a scalar."""
        return torch.stack([self._each(pairs) for pairs in batch.paths]).mean()


class Separation(nn.Module):
    """The shared part of losses that keep paths apart: their weight rises over `warmup` steps. Call them once each."""

    seen: Tensor

    def __init__(self, warmup: int) -> None:
        super().__init__()
        self._warmup = warmup
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch: LossInputs) -> Tensor:
        """Return a scalar."""
        assert batch.traced.paths is not None
        self.seen += 1
        return self.between(batch.traced.paths) * (self.seen / max(1, self._warmup)).clamp(max=1)

    def between(self, paths: Tensor) -> Tensor:
        """Return how much unit paths `[N, P, D]` have in common, a scalar."""
        raise NotImplementedError


class Orthogonal(Separation):
    """The mean over items and pairs of paths of the square of their cosine."""

    def __init__(self, warmup: int = 0) -> None:
        super().__init__(warmup)

    def between(self, paths: Tensor) -> Tensor:
        """Return a number from 0, all at right angles, to 1."""
        first, second = pairs_of(paths)
        return (first * second).sum(-1).square().mean()


class VClub(Separation):
    """An upper bound of the mutual information of pairs of paths (vCLUB; Cheng et al., *CLUB*, arXiv 2006.12013):

        I(x, y) <= E log q(y | x) - E E log q(y' | x),    q(y | x) = N(mu(x), exp(logvar(x)))

    Each pair of paths has a q, a small network with an optimizer of its own, Adam. In each step q is fitted to the
    paths as they are, `fits` times, then frozen while the bound is taken. The mean over y' is that over the whole
    batch, not one shuffled draw. `fixed`: with a variance of 1, which is steadier. `shuffled`: a control, where y is of
    another item than x, so that one tells nothing of the other. Vectors are scaled by sqrt(`dim`), so that numbers have
    a variance near 1 and logvar needs no Tanh. The loss is in nats, the sum over numbers of a vector, as in the paper's
    code. It is not negative: an estimate below 0 says that q lags behind, and nothing is to be gained by making that
    worse.

    All that q has learned is in buffers, so that it is saved with a run and goes back with a step that is begun anew.
    """

    def __init__(
        self,
        paths: int,
        dim: int,
        fits: int = 2,
        fixed: bool = False,
        shuffled: bool = False,
        warmup: int = 0,
        hidden: int = 64,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(warmup)
        self._dim, self._fits, self._fixed, self._shuffled, self._rate = dim, fits, fixed, shuffled, learning_rate
        pairs, outputs = paths * (paths - 1) // 2, dim if fixed else 2 * dim
        drawn = torch.Generator().manual_seed(0)  # the same in every process
        shapes = {"in": (pairs, dim, hidden), "in_bias": (pairs, 1, hidden), "out": (pairs, hidden, outputs)}
        shapes["out_bias"] = pairs, 1, outputs
        self._names = tuple(shapes)
        for name, shape in shapes.items():
            scale = 0.0 if name.endswith("bias") else shape[1] ** -0.5
            self.register_buffer(name, torch.randn(shape, generator=drawn) * scale)
            for moment in ("mean", "square"):
                self.register_buffer(f"{name}_{moment}", torch.zeros(shape))
        self.register_buffer("fitted", torch.zeros(()))

    def between(self, paths: Tensor) -> Tensor:
        """Fit q, and return the mean over pairs of the bound, in nats."""
        first, second = (part * self._dim**0.5 for part in pairs_of(paths))
        if self._shuffled:
            second = second.roll(1, 1)
        for _ in range(self._fits):
            self.fit(first, second)
        return self.information(first, second).clamp(min=0).mean()

    def information(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the bound for pairs of samples `[K, N, D]`, in nats: `[K]`. q is frozen, gradients flow to x and y."""
        mean, spread = self._predicted(x, self._weights())
        inverse = (-spread).exp()
        own = (y - mean).square()
        centre = y.mean(1, keepdim=True)
        others = (centre - mean).square() + (y - centre).square().mean(1, keepdim=True)  # the mean over all y'
        return ((others - own) * inverse).sum(-1).mean(1) / 2

    def fit(self, x: Tensor, y: Tensor) -> float:
        """Take a step of q towards the samples `[K, N, D]`. Return its loss before, in nats per number."""
        x, y = x.detach(), y.detach()
        with torch.enable_grad():
            weights = [weight.clone().requires_grad_() for weight in self._weights()]
            mean, spread = self._predicted(x, weights)
            loss = ((y - mean).square() * (-spread).exp() + spread).mean((1, 2)).sum() / 2
            gradients = torch.autograd.grad(loss, weights)
        self._adam(gradients)
        return float(loss.detach()) / len(x)

    def _weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]

    def _predicted(self, x: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The means and log-variances of y for `x` `[K, N, D]`, both `[K, N, D]`."""
        down, down_bias, up, up_bias = weights
        found = torch.baddbmm(up_bias, functional.gelu(torch.baddbmm(down_bias, x, down)), up)
        if self._fixed:
            return found, torch.zeros_like(found)
        mean, spread = found.chunk(2, dim=-1)
        return mean, spread.clamp(_LEAST, _MOST)

    @torch.no_grad()
    def _adam(self, gradients: tuple[Tensor, ...]) -> None:
        """Kingma and Ba, arXiv 1412.6980."""
        fitted: Tensor = getattr(self, "fitted")  # noqa: B009 - a buffer, which mypy takes for a module
        fitted += 1
        first, second = (1 - beta ** float(fitted) for beta in _BETAS)
        for name, gradient in zip(self._names, gradients, strict=True):
            weight, mean, square = (getattr(self, f"{name}{which}") for which in ("", "_mean", "_square"))
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.lerp_(gradient.square(), 1 - _BETAS[1])
            weight.sub_(self._rate / first * mean / ((square / second).sqrt() + 1e-8))


def pairs_of(paths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second path of each pair of `[N, P, D]`, both `[P(P-1)/2, N, D]`."""
    first, second = torch.triu_indices(paths.shape[1], paths.shape[1], 1, device=paths.device)
    turned = paths.transpose(0, 1)
    return turned[first], turned[second]
