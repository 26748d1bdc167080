"""Several processes, each with a part of every batch, that train as one would with the whole of it.

Every process knows the representations of the whole batch and computes the same loss; its own rows carry gradients. The
loss's gradient with respect to a parameter is then the sum over processes, whatever the loss compares with what.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tsembed_search.errors import TsembedError, UsageError
from tsembed_search.trainer.losses.base import Labels

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)  # while the first process calibrates and writes
_TIME_TO_SPEAK = 2.0  # seconds: whoever started the processes stops all of them as soon as one has ended


class AgreedError(TsembedError):
    """An error of one process or of all of them. All raise it, so it is enough that the first one tells it."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class LostProcessError(TsembedError):
    """Another process of the run has ended without a word to the others."""

    def __init__(self) -> None:
        super().__init__(
            "Another process of this run has ended, and this one cannot go on without it.",
            "Look for its message. Then go on with the run: {resume}.",
        )


@contextmanager
def _exchange() -> Iterator[None]:
    """Put the words of a lost connection into ours."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError from error


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `count`. `device` is where what they exchange lies."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """The process that writes and speaks."""
        return self.rank == 0

    def own(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch: consecutive rows, as many as the others have, or one more or fewer."""
        start, end = (len(rows) * each // self.count for each in (self.rank, self.rank + 1))
        return rows[start:end]

    def gather(self, packed: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
        """The whole batch, `packed` `[N, W]` and `labels` of all processes in their order. One's own has gradients."""
        if self.count == 1:
            return packed, labels
        with _exchange():
            rows = self._gather(packed.detach())
            table, answers = (
                torch.cat(self._gather(part.to(self.device))).cpu() for part in (labels.table, labels.answers)
            )
        rows[self.rank] = packed
        return torch.cat(rows), Labels(table, answers)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in each of them."""
        if self.count == 1:
            return
        shared = list(parameters)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in shared]
        together = torch.cat([one.flatten() for one in gradients])  # one exchange, not hundreds of small ones
        with _exchange():
            dist.all_reduce(together)
        for one, gradient in zip(shared, torch.split(together, [one.numel() for one in shared]), strict=True):
            one.grad = gradient.view_as(one)

    def same(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the first one's parameters."""
        if self.count > 1:
            for parameter in parameters:
                with _exchange():
                    dist.broadcast(parameter.data, 0)

    def sum(self, value: float) -> float:
        """The sum of a number over processes, which wait here for one another."""
        if self.count == 1:
            return value
        with _exchange():
            total = torch.tensor(value, dtype=torch.float64, device=self.device)
            dist.all_reduce(total)
            return float(total)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.sum(0.0)

    def collect(self, value: T) -> list[T]:
        """A value from every process, in their order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with _exchange():
            dist.all_gather_object(found, value)
        return found

    def together(self, action: Callable[[], T]) -> T:
        """Do what can fail in one process, in each of them at the same time: then it fails in all, in the same words.
        Return what it gives in this one.

        Raises `AgreedError`, or where there is one process alone what `action` raises.
        """
        if self.count == 1:
            return action()
        problem, result = None, None
        try:
            result = action()
        except TsembedError as error:
            problem = error.message, error.hint, error.exit_code
        found = [one for one in self.collect(problem) if one is not None]
        if found:
            self.let_the_first_speak()
            raise AgreedError(*found[0])
        return cast(T, result)

    def let_the_first_speak(self) -> None:
        """Wait, if this is another process, until the first one has told what ends all of them."""
        if not self.first:
            time.sleep(_TIME_TO_SPEAK)

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        """A tensor `[n, W]` from every process; n may differ."""
        counts = [torch.zeros((), dtype=torch.int64, device=self.device) for _ in range(self.count)]
        dist.all_gather(counts, torch.tensor(len(tensor), device=self.device))
        most = int(torch.stack(counts).max())
        if not most:
            return [tensor] * self.count
        padded = tensor.new_zeros(most, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(found, padded)
        return [each[: int(count)] for each, count in zip(found, counts, strict=True)]


def join(device: str = "auto") -> tuple[Processes, str]:
    """Join the processes of torchrun or accelerate. Also return the device to load a model on. Raises `UsageError`."""
    count, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    if count == 1:
        return Processes(), device
    local = _number("LOCAL_RANK", rank)
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"{count} processes cannot share {device}.", "Leave {device} out, or use cpu.")
    if on_gpu:
        if torch.cuda.device_count() == 1 and os.environ.get("CUDA_VISIBLE_DEVICES"):
            local = 0  # a launcher that shows each process a GPU of its own
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"There are {torch.cuda.device_count()} GPUs for {count} processes.", "Start one process per GPU."
            )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"The {count} processes of the run do not find one another: {error}",
            "Start them with torchrun or accelerate. For one process, unset WORLD_SIZE.",
        ) from error
    place = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    return Processes(dist.get_rank(), count, place), f"cuda:{local}" if on_gpu else "cpu"


def _number(variable: str, default: int) -> int:
    """A whole number from the environment. Raises `UsageError`."""
    said = os.environ.get(variable, str(default))
    if not said.isdecimal() or (variable == "WORLD_SIZE" and int(said) < 1):
        raise UsageError(f"${variable} is {said!r}, which is no number of processes.", f"Unset ${variable}.")
    return int(said)


def leave() -> None:
    """End what `join` began."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
