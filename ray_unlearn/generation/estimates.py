"""Seconds, bytes and GPU hours of the runs that are still to make, from runs that were made, else from a measured step.

    estimates = estimate(study, store, sizes, step=step)
    estimates["finetune"].seconds, estimates["finetune"].basis
    total_s(estimates, workers=8)

The best basis that there is counts: runs of the same population; runs of another population by the same method, scaled
by epochs; a step that was measured on this machine, times the images of the method's epochs. The last one does not know
what else a method does, and is replaced by the first runs.

Does not cover: waiting for a cluster, and starting it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ray_unlearn.store import Record
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Evaluation, PopulationSpec, Study

EFFICIENT = 0.2
"""Share of retraining's time that the challenge allowed a method."""
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Measured seconds of one image, on this machine."""

    train_s: float
    """Forward, backward, and its share of the optimiser's step."""
    predict_s: float
    parameters: int
    """Numbers in a checkpoint."""
    packed_s: float = 0.0
    """As `train_s`, for each of the runs of a pack; 0 where the study has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Expected cost of one population's runs; None where there is no basis."""

    population: str
    planned: int
    made: int
    seconds: float | None
    """Of a worker, per run: training and predicting."""
    size_bytes: int | None
    """Of all payloads of a run."""
    basis: str
    """What the seconds come from, in words."""
    pack: int = 1
    """Number of runs that are trained together, by one worker."""
    relative: float | None
    """Seconds over those of the reference population, CPU times where all records have them; None for it and for
    originals."""

    @property
    def pending(self) -> int:
        """Number of runs to make."""
        return max(0, self.planned - self.made)

    @property
    def too_slow(self) -> bool:
        """Whether the challenge would have refused the method for its time."""
        return self.relative is not None and self.relative > EFFICIENT


def estimate(
    study: Study,
    records: Mapping[str, Mapping[int, Record]],
    sizes: Mapping[str, int],
    step: Step | None,
    packed: Collection[str] = (),
) -> dict[str, Estimate]:
    """Return an estimate for every population.

    Args:
        study: the study.
        records: records of made runs by population and run.
        sizes: number of images of each split, known or expected.
        step: a measured step; None where none was measured.
        packed: names of the populations that are trained in packs.

    """
    found: dict[str, tuple[float | None, int | None, str]] = {}
    for name, spec in study.populations.items():
        of_packs = replace(step, train_s=_packed_s(step, study, spec)) if step and name in packed else step
        found[name] = _cost(study, name, spec, records, sizes, of_packs)
    reference = (study.evaluation or Evaluation()).reference
    theirs = found[reference][0] if reference in found else None
    cpu_s = {name: _cpu_s(records.get(name, {}).values()) for name in found}
    estimates = {}
    for name, (seconds, size_bytes, basis) in found.items():
        spec = study.populations[name]
        compared = name not in (reference, ORIGINAL) and not spec.on_halves
        estimates[name] = Estimate(
            population=name,
            planned=spec.planned,
            made=sum(index < spec.planned for index in records.get(name, ())),
            seconds=seconds,
            size_bytes=size_bytes,
            basis=basis,
            pack=study.execution.pack if name in packed else 1,
            relative=_ratio(cpu_s[name], cpu_s[reference]) or _ratio(seconds, theirs) if compared and theirs else None,
        )
    return estimates


def total_s(estimates: Iterable[Estimate], workers: int) -> float | None:
    """Return the seconds until every run is made; None where a population with runs to make has no estimate.

    Workers share the runs evenly, but no run and no pack is divided, and no other starts before the originals that are
    to make.
    """
    pending = [one for one in estimates if one.pending]
    known = [(one, one.seconds) for one in pending if one.seconds is not None]
    if len(known) < len(pending):
        return None
    work = sum(one.pending * seconds for one, seconds in known)
    longest = {one.population: min(one.pack, one.pending) * seconds for one, seconds in known}
    originals = sum(math.ceil(math.ceil(o.pending / o.pack) / workers) for o in pending if o.population == ORIGINAL)
    chain = originals * longest.pop(ORIGINAL, 0.0) + max(longest.values(), default=0.0)
    return max(work / workers, chain)


def _packed_s(step: Step, study: Study, spec: PopulationSpec) -> float:
    """Return the seconds of an image of each run: a pack that lacks runs takes as long as a full one."""
    pack = study.execution.pack
    return step.packed_s * pack * math.ceil(spec.planned / pack) / spec.planned


def _cost(
    study: Study,
    name: str,
    spec: PopulationSpec,
    records: Mapping[str, Mapping[int, Record]],
    sizes: Mapping[str, int],
    step: Step | None,
) -> tuple[float | None, int | None, str]:
    own = list(records.get(name, {}).values())
    if own:
        return _mean_s(own), _mean_bytes(own), f"{len(own)} made"
    size_bytes = _expected_bytes(study, name, spec, sizes, step)
    for other, theirs in records.items():
        alike = [one for one in theirs.values() if one.method == spec.method_name]
        if alike and (scale := _scale(study, spec, alike[0])):
            return scale * _mean_s(alike), size_bytes or _mean_bytes(alike), f"{len(alike)} of {other}"
    if step is None:
        return None, size_bytes, "nothing yet"
    images = _epochs(study, spec) * sizes.get(_trained_on(spec), 0) / (2 if spec.on_halves else 1)
    predicted = sum(_predicted(study, sizes).values())
    return images * step.train_s + predicted * step.predict_s, size_bytes, "a measured step"


def _mean_s(records: Iterable[Record]) -> float:
    seconds = [sum(record.seconds.values()) for record in records]
    return sum(seconds) / len(seconds)


def _cpu_s(records: Iterable[Record]) -> float | None:
    """Return the mean CPU seconds of runs on a CPU; None where a record lacks them, or is of a GPU."""
    found = [sum(one.cpu_seconds.values()) if one.device == "cpu" else 0.0 for one in records]
    return sum(found) / len(found) if found and all(found) else None


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _mean_bytes(records: Iterable[Record]) -> int:
    sizes = [sum(payload.size_bytes for payload in record.payloads.values()) for record in records]
    return round(sum(sizes) / len(sizes))


def _scale(study: Study, spec: PopulationSpec, record: Record) -> float:
    theirs = record.options.get("epochs")
    return _epochs(study, spec) / theirs if isinstance(theirs, int | float) and theirs > 0 else 1.0


def _epochs(study: Study, spec: PopulationSpec) -> float:
    """Return the epochs of a population: its own option, the study's for training from scratch, else 1."""
    default = study.training.epochs if spec.method_name in ("train", "retrain") else 1.0
    found = spec.options.get("epochs", default)
    return float(found) if isinstance(found, int | float) else default


def _trained_on(spec: PopulationSpec) -> str:
    shadows = spec.on_halves and spec.starts_from is None
    return "train" if shadows or spec.options.get("on") == "train" else "retain"


def _predicted(study: Study, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the number of images of each split whose logits a run saves."""
    found: dict[str, int] = {name: sizes.get(name, 0) for name in study.outputs.splits}
    sample = study.outputs.retain_sample
    if sample is not None and "retain" in found:
        found["retain"] = min(sample, found["retain"])
    return found


def _expected_bytes(
    study: Study, name: str, spec: PopulationSpec, sizes: Mapping[str, int], step: Step | None
) -> int | None:
    """Return the bytes of a run's payloads: weights, and per image logits, label and position."""
    if step is None:
        return None
    keeps = study.keep_checkpoints if spec.keep_checkpoints is None else spec.keep_checkpoints
    starts = name == ORIGINAL or any(other.starts_from == name for other in study.populations.values())
    weights = step.parameters * _BYTES[study.checkpoint_dtype] if keeps or starts else 0
    images = sum(_predicted(study, sizes).values())
    return weights + images * (4 * sizes.get("classes", 10) + 16)


def expected_sizes(study: Study, rows: Mapping[str, int], num_classes: int) -> dict[str, int]:
    """Return the expected number of images of each split, before splits are drawn.

    Args:
        study: the study.
        rows: number of rows of the sources train, validation and test.
        num_classes: number of classes.

    """
    data = study.data
    train = min(rows.get("train", 0), data.limit or rows.get("train", 0))
    held = {"test": rows.get("test", 0), "validation": rows.get("validation", 0)}
    left = train
    for role in ("test", "validation"):
        fraction = getattr(data, role)
        if isinstance(fraction, float):
            held[role] = round(fraction * left)
            left -= held[role]
    share = data.forget.fraction or (1 / num_classes if data.forget.label is not None else 0.02)
    forget = data.forget.hardest or max(1, round(share * left))
    return {**held, "train": left, "forget": forget, "retain": left - forget, "classes": num_classes}
