"""The training loop: data, sample, embed, loss, step, checkpoint; from one plain process to many under torchrun.

Random numbers of a step come from (seed, step, rank) alone, so a resumed run needs no generator's state: it draws what
it would have drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch

from tsembed_search.errors import ModelError
from tsembed_search.model import checkpoint
from tsembed_search.model.backbone import autocast
from tsembed_search.trainer import diagnostics, distributed, recipe, setup, state, validation
from tsembed_search.trainer.batches.features import preparer_for
from tsembed_search.trainer.batches.loader import Load, Loader
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.gradcache import Passes
from tsembed_search.trainer.job import MODEL, Job, Stopped, TrainReport, in_words
from tsembed_search.trainer.log import untrained
from tsembed_search.trainer.objective import Objective
from tsembed_search.trainer.optimizer import Optimizer
from tsembed_search.trainer.report import write as write_report
from tsembed_search.trainer.schedule import DivergedError, DivergenceMonitor, StageSchedule
from tsembed_search.trainer.state import TrainState
from tsembed_search.trainer.validation import Embedding, Ranking, Validations


def train(job: Job) -> TrainReport:
    """Run a job, alone or as one of the processes that torchrun or accelerate started.

    Raises `Stopped`, `DivergedError`, `DiskError`, `UsageError` for data or folders that cannot be used, `ModelError`;
    where there are several processes also `AgreedError` and `LostProcessError`.
    """
    settings, run = job.recipe, job.recipe.run
    with _joined(job) as (processes, device), ExitStack() as closing:
        # All that can be refused is refused before there is a folder, what is cheap to find out first.
        sampler, facts, model = processes.together(lambda: setup.loaded(job, processes, device))
        backbone = model.backbone
        precision = autocast(run.precision, model.device)
        preparer = preparer_for(backbone, model.base.fingerprint, run.cache, run.workers)
        closing.callback(preparer.close)
        loader = Loader(sampler, preparer, processes, settings.negatives.hard_negatives)
        closing.callback(loader.close)

        # What a step changes, and what the run remembers of its steps.
        objective = Objective(settings.loss, settings.negatives, model.shape, run.seed, settings.paths).to(model.device)
        optimizer = Optimizer(settings.optimizer, model.adapters, objective, run.steps)
        processes.same(optimizer.shared)
        schedule = StageSchedule(settings.stages, run.steps)
        monitor = DivergenceMonitor(run.spike, lambda: state.safe(job.out))
        validations = Validations()
        now = TrainState(model.adapters, optimizer, objective, loader, schedule, monitor, validations)

        tokens = settings.batch.tokens or backbone.training_tokens(run.gradient_checkpointing)
        passes = Passes(backbone, objective, optimizer, processes, run.seed, tokens, model.device, precision)
        embedding = Embedding(backbone, preparer, precision)
        rankings: dict[str, Ranking] = {}
        load: Load | None = None

        if not job.resume:
            loader.peek()  # data that cannot be used is refused as well
        log = processes.together(lambda: setup.begun(job, processes, facts))
        closing.callback(log.close)

        def require(finite: bool, what: str) -> None:
            """End the run in all processes when one of them has found numbers that are not finite."""
            if processes.sum(float(not finite)) > 0:
                raise monitor.diverged(f"{what} are not finite")

        def validate() -> None:
            """Measure the model as it is, and keep its weights if they are the best so far."""
            nonlocal rankings
            found, rankings = validation.measure(embedding, job.held_out, run.validation_rows, processes)
            figures = math.isfinite(found.hit + found.mrr)
            require(figures and all(ranking.finite for ranking in rankings.values()), "vectors")
            log.tell(preparer.remarks, passes.remarks, embedding.remarks)
            validations.add(now.step, found, model.adapters.state_dict)
            if validations.best is not None and found.tasks:
                best = validations.best[1].hit
                log.write("validation", step=now.step, best=best, seconds=found.seconds, **found.to_json())

        saved = -1

        def save() -> None:
            """Write the state as it is, so that the run can go on from here."""
            nonlocal saved
            if load is not None and saved != now.step:
                require(embedding.finite(load.items), "vectors")
            if processes.first and saved != now.step:
                now.counters.log = log.size
                log.write("checkpoint", step=now.step, path=str(now.save(job.out)))
            saved = now.step
            processes.wait()

        def end(reason: str, path: Path | None = None, weight: float | None = None) -> TrainReport:
            """Write the last record and the report's page."""
            report = now.report(reason, path, weight)
            said = report.to_json()
            names = ("reason", "steps", "seconds", "items_per_second", "checkpoint")
            best_step = validations.best and validations.best[0]
            log.write("end", **{name: said[name] for name in names}, best_step=best_step)
            if processes.first:
                write_report(job.out)
            processes.wait()
            return report

        # From the beginning, or from the last whole state.
        found = state.latest(job.out) if job.resume else None
        lost = processes.together(lambda: now.load(found)) if found else ""
        if job.resume:
            log.cut(now.counters.log)
        ours = {"precision": "float32" if precision is nullcontext else "bfloat16", "ranks": processes.count}
        resumed = {"resumed_from": now.step if found else None, "rows_skipped": now.counters.skipped}
        log.write("run", **setup.header(job, model, facts), **ours, **resumed)
        log.tell([] if found else setup.remarks(job, model, sampler), [lost] if lost else [], preparer.remarks)
        if run.gradient_checkpointing:
            backbone.enable_gradient_checkpointing()
        if run.compile:
            backbone.compile()
        backbone.train(True)
        if now.step == 0 and job.held_out:
            validate()

        reason = "finished"
        while now.step < run.steps:
            if run.patience and validations.waited >= run.patience:
                reason = "early stop"
                break
            if processes.sum(float(job.stop())) > 0:
                save()
                raise Stopped(end("interrupted"), job.out)

            # One step of the optimizer.
            started = time.perf_counter()
            step, load = now.step + 1, loader.next()
            before, stage = schedule.at, schedule.stage(step)
            if schedule.at != before:
                log.write("stage", step=step, stage=stage, reason=schedule.reason)
            outcome, load = passes.step(load, stage, step)
            processes.sum_gradients(optimizer.shared)
            rates, norm = optimizer.step(step, schedule.router_factor(stage))
            objective.contrastive.bound()

            # What there is to know of it.
            items, counters = processes.sum(float(len(load.items))), now.counters
            counters.add(items, time.perf_counter() - started)
            counters.skipped += len(load.skipped)
            log.tell([f"A row is left out. {why}" for why in load.skipped])
            log.tell(preparer.remarks, passes.remarks, embedding.remarks)
            record = {
                "step": step,
                "stage": stage,
                "rates": rates,
                "gradient_norm": norm,
                "items": int(items),
                **outcome.to_json(),
                "rows": sum(load.tasks.values()),
                "tokens": load.tokens,
                "tasks": load.tasks,
                "seconds": counters.seconds,
                "items_per_second": counters.rate,
                "seconds_left": (run.steps - step) * counters.seconds / step,
                "temperature": objective.contrastive.temperature,
                "memory": diagnostics.peak_memory(model.device),
            }
            monitor.check(record)
            if not optimizer.finite():
                raise monitor.diverged("weights are not finite")
            schedule.observe(float(outcome.figures["routing_entropy"]))
            now.step = step
            log.write("step", **record)
            if run.validate_every and step % run.validate_every == 0:
                validate()
            if run.checkpoint_every and step % run.checkpoint_every == 0:
                save()

        # The best weights become the model.
        if job.held_out and validations.step != now.step:
            validate()
        save()
        best = validations.best
        if best is not None and best[0] != now.step:
            model.adapters.load_state_dict(validations.best_weights)
        weight = None
        if processes.first and model.shape.experts > 1:
            current = processes.count == 1 and best is not None and best[0] == validations.step
            weight = diagnostics.calibrated(job, model, embedding, log, monitor, rankings if current else {})
        path = job.out / MODEL
        if processes.first:
            data = {"sources": list(job.sources), "tasks": facts["tasks"]}
            said = recipe.to_json(settings) | {"steps_taken": now.step}
            metrics = best[1].to_json() if best else {}
            checkpoint.save(path, backbone, model.base, route_weight=weight, data=data, recipe=said, metrics=metrics)
            diagnostics.compare_tasks(job, passes, preparer, log)  # may fail, with the model on disk
        report = end(reason, path, weight)
        if processes.first:
            checkpoint.describe(path, untrained(job.out))
        return report


@contextmanager
def _joined(job: Job) -> Iterator[tuple[Processes, str]]:
    """Inside, this is one of the processes of the run, and errors of disk and GPU are put in words."""
    processes, device = distributed.join(job.device)
    try:
        with in_words(job.out):
            yield processes, device
    except torch.OutOfMemoryError as error:  # outside of what `gradcache` does by a budget
        raise ModelError(
            "The memory of the GPU is full.", "Use a lower batch.tokens or batch.size, or end what else runs there."
        ) from error
    except (Stopped, DivergedError):
        processes.let_the_first_speak()
        raise
    finally:
        distributed.leave()
