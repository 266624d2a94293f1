"""Plans and records made by hand, for tests of the scheduler and the store: no data, no model."""

from __future__ import annotations

from conftest import TINY, merged

from ray_unlearn.store import Record
from ray_unlearn.store.records import payload_of
from ray_unlearn.study import Ingredients, Plan, Run, make_plan, parse_study
from ray_unlearn.study.plan import MethodUse
from ray_unlearn.study.schema import Model

PAYLOADS = {"model.safetensors": b"weights", "outputs.arrow": b"logits"}


def plan_of(count: int, originals: int = 1, lr: float = 1e-3) -> Plan:
    """Return a plan of `originals` originals and `count` fine-tuned runs that start from them in turn."""
    changes = {"populations": {"original": {"count": originals}, "finetune": {"count": count, "originals": originals}}}
    uses = {
        name: MethodUse(
            name=name, starts_from=start, options=Model(), identity={"method": name, "options": {"lr": rate}}
        )
        for name, start, rate in (("original", "scratch", 1e-2), ("finetune", "original", lr))
    }
    study = parse_study(merged(TINY, changes), where="a test")
    return make_plan(study, Ingredients(data={"images": "abc"}, model={"arch": "small_cnn"}, methods=uses))


def finetune(index: int, original: int = 0) -> Run:
    """Return one run of the population `finetune`."""
    return Run(population="finetune", index=index, original=original)


def record_of(plan: Plan, run: Run, payloads: dict[str, bytes] = PAYLOADS) -> Record:
    """Return the record that a worker would publish with these payloads."""
    population = plan.populations[run.population]
    return Record(
        population=run.population,
        index=run.index,
        original=run.original,
        digest=population.digest,
        method=population.method.name,
        options={"lr": 1e-3},
        seeds={"study": 0, "run": run.index},
        payloads={name: payload_of(data) for name, data in payloads.items()},
        metrics={"test_accuracy": 0.5},
        epoch_loss=[1.0],
        stages=[],
        seconds={"train": 1.0},
        started_at="2026-01-01T00:00:00+00:00",
        device="cpu",
        threads=1,
        host="here",
        versions={},
        attempt=1,
        original_sha256="",
        checksum="",
    )
