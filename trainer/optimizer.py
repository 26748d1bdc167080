"""The optimizer: AdamW with a learning rate for each kind of parameter, a schedule, and a bound on the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tsembed_search.model.moe_lora import Adapters
from tsembed_search.trainer.settings import OptimizerSettings

_SCALE_RATE = 1e-3  # of a learned temperature


class Optimizer:
    """AdamW over experts, routers and, where they are trained, the projector, paths and the temperature. `total`: of
    steps.
    """

    def __init__(self, settings: OptimizerSettings, adapters: Adapters, loss: nn.Module, total: int) -> None:
        self.settings = settings
        self.total = total
        self.shared = list(adapters.parameters())
        """The parameters whose gradients are summed over processes."""
        groups = {
            "experts": (list(adapters.expert_parameters()), settings.learning_rate, settings.weight_decay),
            "router": (list(adapters.router_parameters()), settings.router_learning_rate, 0.0),
            "projector": (
                list(adapters.projector_parameters()),
                settings.projector_learning_rate,
                settings.weight_decay,
            ),
            "paths": (list(adapters.path_parameters()), settings.paths_learning_rate, 0.0),
            "temperature": ([one for one in loss.parameters() if one.requires_grad], _SCALE_RATE, 0.0),
        }
        self._peaks = [(name, rate) for name, (parameters, rate, _) in groups.items() if parameters]
        self._adam = torch.optim.AdamW(
            [{"params": own, "lr": rate, "weight_decay": decay} for own, rate, decay in groups.values() if own],
            betas=(settings.beta1, settings.beta2),
        )
        for parameter in self._parameters():
            parameter.requires_grad_(True)

    def step(self, step: int, router_factor: float = 1.0) -> tuple[dict[str, float], float]:
        """Take step number `step` (from 1) with the gradients that are there, and clears them.

        Return the rates and the norm of the gradient before it was clipped. A `router_factor` of 0 freezes the routers.
        """
        factor = learning_rate(self.settings, step, self.total)
        rates = {}
        for (name, peak), group in zip(self._peaks, self._adam.param_groups, strict=True):
            group["lr"] = rates[name] = peak * factor * (router_factor if name == "router" else 1.0)
            if name == "router" and router_factor == 0:
                for parameter in group["params"]:
                    parameter.grad = None
        limit = self.settings.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self._parameters(), limit))
        if math.isfinite(norm):
            self._adam.step()
        self.clear()
        return rates, norm

    def clear(self) -> None:
        """Clear the gradients that are there."""
        self._adam.zero_grad(set_to_none=True)

    def finite(self) -> bool:
        """Say if all trained weights are finite numbers."""
        return bool(torch.stack([torch.isfinite(one.detach()).all() for one in self._parameters()]).all())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments, by the parameter's number."""
        found = {}
        for number, parameter in enumerate(self._parameters()):
            for key, value in self._adam.state.get(parameter, {}).items():
                found[f"{number}.{key}"] = value
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state_dict` gave."""
        for number, parameter in enumerate(self._parameters()):
            own = {key.partition(".")[2]: value for key, value in state.items() if key.partition(".")[0] == str(number)}
            if own:
                self._adam.state[parameter] = {
                    key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                    for key, value in own.items()
                }

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self._adam.param_groups for parameter in group["params"]]


def learning_rate(settings: OptimizerSettings, step: int, total: int) -> float:
    """Return the share of the peak at a step (from 1): up in the warm-up, then down to 0, unless it is constant."""
    warmup = round(settings.warmup * total) if settings.warmup < 1 else int(settings.warmup)
    warmup = min(warmup, total - 1)
    if step <= warmup:
        return step / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    left = (total + 1 - step) / max(1, total - warmup)
    return left if settings.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
