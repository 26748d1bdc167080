"""The training loop: data, sample, embed, loss, step, checkpoint; from one plain process to many under torchrun.

Random numbers of a step come from (seed, step, rank) alone, so a resumed run needs no generator's state: it draws what
it would have drawn.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsembed_search.errors import ModelError
from tsembed_search.model import checkpoint, loading, registry
from tsembed_search.ranking.reranking import Sweep
from tsembed_search.trainer import distributed as ranks
from tsembed_search.trainer import gradcache, setup, state, validation
from tsembed_search.trainer import job as disk
from tsembed_search.trainer import job as folder
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer import report as page
from tsembed_search.trainer import validation as diagnostics
from tsembed_search.trainer.batches import features
from tsembed_search.trainer.batches.loader import Load, Loader
from tsembed_search.trainer.batches.sampler import Sampler
from tsembed_search.trainer.idle import Situation, remarks
from tsembed_search.trainer.job import Job, Stopped, TrainReport
from tsembed_search.trainer.log import NAME, Log, untrained
from tsembed_search.trainer.objective import Objective, Outcome
from tsembed_search.trainer.optimizer import Optimizer
from tsembed_search.trainer.packing import Shape
from tsembed_search.trainer.passing import Passes
from tsembed_search.trainer.schedule import DivergedError, DivergenceMonitor, StageSchedule, finite_vectors
from tsembed_search.trainer.validation import Embedding, Validation, mean_route, route_weight

_SMOOTH = 0.9  # of the rate that is shown
_FEW_QUERIES = 20


def train(job: Job) -> TrainReport:
    """Runs a job, alone or as one of the processes that torchrun or accelerate started.

    Raises `Stopped`, `DivergedError`, `DiskError`, `UsageError` for data or folders that cannot be used, `ModelError`;
    where there are several processes also `AgreedError` and `LostProcessError`.
    """
    group, device = ranks.join(job.device)
    try:
        with disk.in_words(job.out), ExitStack() as closing:
            return _Run(job, group, device, closing).whole()
    except torch.OutOfMemoryError as error:  # outside of what `gradcache` does by a budget
        raise ModelError(
            "The memory of the GPU is full.", "Use a lower batch.tokens or batch.size, or end what else runs there."
        ) from error
    except (Stopped, DivergedError):
        group.let_the_first_speak()
        raise
    finally:
        ranks.leave()


class _Run:
    """One process's side of a run. Threads and files are put on `closing`, to be ended with it."""

    def __init__(self, job: Job, group: ranks.Processes, device: str, closing: ExitStack) -> None:
        self.job, self.recipe, self.ranks = job, job.recipe, group
        settings = job.recipe.run
        group.together(lambda: self._check_and_load(device))
        self.device = next(self.adapters.expert_parameters()).device
        self.shape = Shape(self.backbone.info.dim, *self.adapters.shape)
        self.precision = setup.precision(settings.precision, self.device)
        self.objective = Objective(job.recipe.loss, job.recipe.negatives, self.shape, settings.seed).to(self.device)
        self.optimizer = Optimizer(job.recipe.optimizer, self.adapters, self.objective, settings.steps)
        self.stages = StageSchedule(job.recipe.stages, settings.steps)
        self.monitor = DivergenceMonitor(settings.spike)
        group.same(self.optimizer.shared)
        self.passes = Passes(
            self.backbone,
            self.objective,
            self.optimizer,
            group,
            job.recipe.loss,
            settings.seed,
            self.shape,
            job.recipe.batch.tokens or self.backbone.training_tokens(settings.checkpointing),
            self.device,
            self.precision,
        )
        self.preparer = features.preparer(self.backbone, self.base.fingerprint, settings.cache, settings.workers)
        closing.callback(self.preparer.close)
        self.loader = Loader(self.sampler, self.preparer, group, job.recipe.negatives.hard_negatives)
        closing.callback(self.loader.close)
        self.embedding = Embedding(self.backbone, self.preparer, self.precision)
        self.sampled: dict[str, Any] = self.sampler.state()
        if not job.resume:
            self.loader.peek()  # data that cannot be used is refused before there is a folder
        group.together(self._open)
        closing.callback(self.log.close)
        self.step, self.seconds, self.items, self.rate, self.skipped = 0, 0.0, 0.0, 0.0, 0
        self.remarks: list[str] = []
        self.load: Load | None = None
        self.record: dict[str, Any] = {}
        self.before: Validation | None = None
        self.last: Validation | None = None
        self.best: tuple[int, Validation] | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.waited = 0
        self.validated = self.saved = -1
        self.rankings: dict[str, validation.Ranking] = {}

    def _check_and_load(self, device: str) -> None:
        """All that can be refused, what is cheap to find out first."""
        with disk.in_words(self.job.out):
            self.sampler = Sampler(self.job.train, self.recipe.batch, self.recipe.run.seed)
            self.tasks, self.held_out = folder.summary(self.job.train), folder.summary(self.job.held_out)
            if self.job.resume:
                folder.check_same(self.job.out, self.recipe, self.tasks, self.held_out)
            elif self.ranks.first:
                folder.check_free(self.job.out)
        self.start = registry.resolve(self.recipe.model.base)
        self.base = loading.base_behind(self.start)
        self.backbone = setup.adapted(
            loading.load(self.start, device, setup.weights_dtype(self.recipe.run.precision)), self.recipe
        )
        assert self.backbone.adapters is not None
        self.adapters = self.backbone.adapters

    def _open(self) -> None:
        """The folder and the log, both the first process's."""
        self.log = Log(None)
        with disk.in_words(self.job.out):
            if self.ranks.first and not self.job.resume:
                folder.begin(self.job.out, self.recipe, self.job.sources, self.tasks, self.held_out)
            if self.ranks.first:
                self.log = Log(self.job.out / NAME, *self.job.observers)

    def whole(self) -> TrainReport:
        """Begins or goes on, trains, and finishes."""
        settings = self.recipe.run
        self._begin()
        reason = "finished"
        while self.step < settings.steps:
            if settings.patience and self.waited >= settings.patience:
                reason = "early stop"
                break
            if self.ranks.sum(float(self.job.stop())) > 0:
                return self._interrupted()
            self._step()
            if _due(self.step, settings.validate_every):
                self._validate()
            if _due(self.step, settings.checkpoint_every):
                self._save()
        return self._finish(reason)

    def _begin(self) -> None:
        found = state.latest(self.job.out) if self.job.resume else None
        if found is not None:
            self.ranks.together(lambda: self._restore(found))
        elif self.job.resume:
            self.log.cut(0)
        self._announce(None if found is None else self.step)
        if self.recipe.run.checkpointing:
            self.backbone.enable_gradient_checkpointing()
        if self.recipe.run.compile:
            setup.compile_model(self.backbone)
        self.backbone.train(True)
        if self.step == 0 and self.job.held_out:
            self._validate()

    def _step(self) -> None:
        """One step of the optimiser."""
        started = time.perf_counter()
        step, load = self.step + 1, self.loader.next()
        was, stage = self.stages.at, self.stages.stage(step)
        if self.stages.at != was:
            self.log.write("stage", step=step, stage=stage, reason=self.stages.reason)
        outcome, load = self.passes.step(load, stage, step)
        self.ranks.sum_gradients(self.optimizer.shared)
        rates, norm = self.optimizer.step(step, self.stages.router_factor(stage))
        self.objective.bound()
        record = self._record(step, stage, load, outcome, rates, norm, time.perf_counter() - started)
        self.monitor.check(record, self._safe())
        if not self.optimizer.finite():
            raise self.monitor.diverged("weights are not finite", record, self._safe())
        self.stages.observe(record["routing_entropy"])
        self.step, self.sampled, self.load, self.record = step, load.sampler, load, record
        self.log.write("step", **record)

    def _record(
        self, step: int, stage: int, load: Load, outcome: Outcome, rates: dict[str, float], norm: float, took: float
    ) -> dict[str, Any]:
        items = self.ranks.sum(float(len(load.items)))
        self.seconds += took
        self.items += items
        self.rate = items / took if not self.rate else _SMOOTH * self.rate + (1 - _SMOOTH) * items / took
        for why in load.skipped:
            self.skipped += 1
            self.log.write("note", message=f"A row is left out. {why}")
        self._tell()
        return {
            "step": step,
            "stage": stage,
            "loss": float(outcome.total.detach()),
            "parts": {name: float(part) for name, part in outcome.parts.items()},
            "rates": rates,
            "temperature": self.objective.temperature,
            "gradient_norm": norm,
            "rows": sum(load.tasks.values()),
            "items": int(items),
            "tokens": load.tokens,
            "tasks": load.tasks,
            "seconds": self.seconds,
            "items_per_second": self.rate,
            "seconds_left": (self.recipe.run.steps - step) * self.seconds / step,
            **{name: figure.tolist() for name, figure in outcome.figures.items()},
            "memory": diagnostics.peak_memory(self.device),
        }

    def _validate(self) -> None:
        """Measures the model as it is, and keeps its weights if they are the best so far."""
        rows = self.recipe.run.validation_rows
        found, rankings = validation.measure(self.embedding, self.job.held_out, rows, self.ranks)
        self._check_vectors(
            math.isfinite(found.hit + found.mrr) and all(ranking.finite for ranking in rankings.values())
        )
        self._tell()
        self.validated, self.rankings = self.step, rankings
        if not found.tasks:
            return
        best = self.best is None or found.hit > self.best[1].hit
        self.last, self.waited = found, 0 if best else self.waited + 1
        if self.step == 0:
            self.before = found
        if best:
            self.best = self.step, found
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in self._weights().items()}
        assert self.best is not None
        self.log.write("validation", step=self.step, best=self.best[1].hit, seconds=found.seconds, **found.to_json())

    def _check_vectors(self, finite: bool) -> None:
        """Ends the run in all processes when one of them has found vectors, or figures on them, that are not
        `finite`.
        """
        if self.ranks.sum(float(not finite)) > 0:
            if not self.record:
                raise ModelError(
                    f"Before any step, vectors of {self.recipe.model.base} are not finite.", "Train from another model."
                )
            raise self.monitor.diverged("vectors are not finite", self.record, self._safe())

    def _tell(self) -> None:
        """Notes what there is to remark."""
        for said in (self.remarks, self.preparer.remarks, self.passes.remarks, self.embedding.remarks):
            while said:
                self.log.write("note", message=said.pop(0))

    def _weights(self) -> dict[str, Tensor]:
        own = {
            "experts.": self.adapters.expert_state(),
            "routers.": self.adapters.router_state(),
            "projector.": self.adapters.projector_state(),
        }
        return {name: tensor for prefix, part in own.items() for name, tensor in state.named(prefix, part).items()}

    def _save(self) -> None:
        """The state as it is, so that the run can go on from here."""
        if self.load is not None and self.saved != self.step:
            self._check_vectors(finite_vectors(self.backbone, self.load.items, self.precision))
        if self.ranks.first and self.saved != self.step:
            tensors = self._weights() | state.named("adam.", self.optimizer.state())
            tensors |= state.named("objective.", self.objective.extra_state())
            older = self.best_weights if self.best is not None and self.best[0] != self.step else None
            path = state.save(self.job.out, self.step, tensors, self._facts(), older)
            self.log.write("checkpoint", step=self.step, path=str(path))
        self.saved = self.step
        self.ranks.sum(0.0)

    def _facts(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "sampler": self.sampled,
            "switch": self.stages.state(),
            "watch": self.monitor.state(),
            "seconds": self.seconds,
            "items": self.items,
            "skipped": self.skipped,
            "waited": self.waited,
            "validated": self.validated,
            "validation": {
                "before": self.before and self.before.to_json(),
                "last": self.last and self.last.to_json(),
                "best": self.best and [self.best[0], self.best[1].to_json()],
            },
            "log": self.log.size,
        }

    def _restore(self, found: Path) -> None:
        """Goes back to a state. Raises `ModelError` when it is damaged, or another version made it."""
        tensors, facts = state.load(found)
        try:
            self._take_over(tensors, facts)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"The state of the run in {found} is damaged, or another version made it: {error!r}.",
                "Train again into another folder.",
            ) from error
        if self.best is not None and self.best[0] != self.step:
            self._restore_best(found, self.best[0])

    def _restore_best(self, found: Path, step: int) -> None:
        """The best weights, or else a remark: the run can go on without them."""
        try:
            self.best_weights = state.load_best(found)
        except ModelError as error:
            self.remarks.append(
                f"The weights of step {step}, which validated best, are lost. {error.message} "
                "The best ones from here on will be saved."
            )
            self.best, self.waited, self.validated = None, 0, -1

    def _take_over(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._load_weights(tensors)
        self.optimizer.restore(state.part(tensors, "adam."))
        self.objective.restore(
            {name: tensor.to(self.device) for name, tensor in state.part(tensors, "objective.").items()}
        )
        self.sampler.restore(facts["sampler"])
        self.stages.restore(facts["switch"])
        self.monitor.restore(facts["watch"])
        self.step, self.sampled, self.seconds = facts["step"], facts["sampler"], facts["seconds"]
        self.items, self.skipped, self.waited = facts["items"], facts["skipped"], facts["waited"]
        self.validated = facts["validated"]
        known = facts["validation"]
        self.before, self.last = (known[which] and Validation(known[which]["tasks"]) for which in ("before", "last"))
        self.best = known["best"] and (known["best"][0], Validation(known["best"][1]["tasks"]))
        self.best_weights = {name: tensors[name] for name in self._weights()}
        self.log.cut(facts["log"])

    def _load_weights(self, tensors: dict[str, Tensor]) -> None:
        self.adapters.load(*(state.part(tensors, prefix) for prefix in ("experts.", "routers.", "projector.")))

    def _interrupted(self) -> TrainReport:
        self._save()
        report = self._report("interrupted", None, None)
        self._end(report)
        raise Stopped(report, self.job.out)

    def _finish(self, reason: str) -> TrainReport:
        """Takes the best weights, calibrates them and saves the model."""
        if self.job.held_out and self.validated != self.step:
            self._validate()
        self._save()
        if self.best is not None and self.best[0] != self.step:
            self._load_weights(self.best_weights)
        found = self._calibrate() if self.ranks.first else None
        path = self.job.out / folder.MODEL
        report = self._report(reason, path, found)
        if self.ranks.first:
            checkpoint.save(
                path,
                self.backbone,
                self.base,
                route_weight=report.route_weight,
                data={"sources": list(self.job.sources), "tasks": self.tasks},
                recipe=recipes.to_json(self.recipe) | {"steps_taken": self.step},
                metrics=report.validation.to_json() if report.validation else {},
            )
            self._compare_tasks()  # with the model on disk: whatever happens now, it is there
        self._end(report)
        if self.ranks.first:
            checkpoint.describe(path, untrained(self.job.out))
        return report

    def _calibrate(self) -> Sweep | None:
        """Centres routes, finds lambda, and looks at how tasks use experts and pull at shared weights."""
        if self.shape.experts == 1:
            return None
        mean, items, per_task = mean_route(self.embedding, self.job.train, self.recipe.run.seed)
        if not bool(torch.isfinite(mean).all()):
            raise self.monitor.diverged("routes are not finite", self.record, self._safe())
        self.adapters.mean.copy_(mean)
        rankings = self.rankings
        if self.ranks.count > 1 or not rankings or self.best is None or self.best[0] != self.validated:
            rankings = validation.rank_tasks(self.embedding, self.job.held_out, self.recipe.run.validation_rows)
        found = route_weight(rankings, mean)
        if found is not None:
            tried = [list(pair) for pair in found.curve]
            self.log.write("calibration", sweep=tried, items=items, queries=found.queries, **{"lambda": found.weight})
            if found.queries < _FEW_QUERIES:
                few = f"Lambda was chosen by {found.queries} queries, which says little about others."
                self.log.write("note", message=few)
        metas = {task.name: task.meta for task in self.job.train}
        loads = {
            name: {"meta": metas[name], "load": own.view(*self.adapters.shape).tolist()}
            for name, own in per_task.items()
        }
        self.log.write("experts", tasks=loads)
        return found

    def _compare_tasks(self) -> None:
        """Notes whether the tasks' gradients of the shared weights agree, where there are several tasks."""
        loss = self.recipe.loss
        try:
            found = diagnostics.task_gradients(
                self.backbone,
                self.preparer,
                self.job.train,
                loss.temperature,
                loss.margin,
                self.recipe.run.seed,
                tokens=self.passes.tokens,
                device=self.device,
                precision=self.precision,
            )
        except gradcache.TooLargeError:
            found = {}
            self.log.write("note", message="There is too little memory to compare the gradients of tasks.")
        if len(found) > 1:
            self.log.write("gradients", tasks=list(found), cosine=diagnostics.cosines(found))

    def _report(self, reason: str, path: Path | None, found: Sweep | None) -> TrainReport:
        recent = self.monitor.losses[-10:]
        return TrainReport(
            steps=self.step,
            stage_switch=self.stages.at,
            loss=sum(recent) / len(recent) if recent else None,
            before=self.before,
            validation=self.best[1] if self.best and path else self.last,
            seconds=self.seconds,
            items_per_second=self.items / self.seconds if self.seconds else 0.0,
            checkpoint=path,
            route_weight=None if found is None else found.weight,
            reason=reason,
        )

    def _end(self, report: TrainReport) -> None:
        self.log.write(
            "end",
            reason=report.reason,
            steps=report.steps,
            seconds=report.seconds,
            items_per_second=report.items_per_second,
            best_step=self.best[0] if self.best else None,
            checkpoint=None if report.checkpoint is None else str(report.checkpoint),
        )
        if self.ranks.first:
            page.write(self.job.out)
        self.ranks.sum(0.0)

    def _announce(self, resumed_from: int | None) -> None:
        """The first record of the log."""
        self.log.write(
            "run",
            **setup.header(self.job, self.backbone, self.optimizer.shared, self.tasks),
            precision="float32" if self.precision is nullcontext else "bfloat16",
            ranks=self.ranks.count,
            resumed_from=resumed_from,
            rows_skipped=self.skipped,
        )
        if self.start != self.base and not self.step:
            said = f"The adapters of {self.start.name} are trained on; the recipe's own adapter table does not count."
            self.log.write("note", message=said)
        for line in self._remarks() if resumed_from is None else ():
            self.log.write("note", message=line)
        self._tell()

    def _remarks(self) -> list[str]:
        """What a person should know before the first step."""
        told = [task for task in self.job.held_out if len({task.identity(row) for row in range(len(task))}) > 1]
        untold = [task.name for task in self.job.held_out if task not in told]
        met = Situation(
            experts=self.shape.experts,
            projector=self.adapters.projector is not None,
            dim=self.shape.dim,
            most=self.sampler.identities,
            measured=bool(told),
        )
        said = remarks(self.recipe, self.job.chosen, met)
        if not told:
            said.append("Nothing is measured: no rows are held out that have two different targets.")
        elif untold:
            said.append(f"Not measured, for want of two different targets among held-out rows: {', '.join(untold)}.")
        return said

    def _safe(self) -> str:
        found = state.latest(self.job.out)
        return f"The last whole state is {found}." if found else "No state was saved."


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
