"""forget(): check the original, make the unlearned model and as many runs as a budget allows, write the page.

    found = forget(model="model.pth", arch="resnet18", data="photos", ids="delete.csv", out="out", budget="30m")
    print(found)                                 # the verdict, and where everything is

The study file in `out` is the whole request: the same call goes on where it stopped, and makes more runs where the
budget is larger.

Does not cover: how runs are made (`generation`) and scored (`evaluation`).
"""

from __future__ import annotations

import html
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ray_unlearn.deletion import original, words
from ray_unlearn.deletion.files import check_replaceable, write_models
from ray_unlearn.deletion.findings import Findings, read_findings
from ray_unlearn.deletion.page import Context, deletion_page
from ray_unlearn.deletion.request import (
    RETRAINED,
    UNLEARNED,
    Request,
    budget_s,
    check_form,
    with_count,
    write,
    write_count,
)
from ray_unlearn.deletion.scales import check_scale
from ray_unlearn.errors import ModelError, PopulationChanged, ReferenceNotMade, StoreError, write_file
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.generation import Summary, generate
from ray_unlearn.generation.backends import BackendName
from ray_unlearn.generation.thumbnails import thumbnails as drawn
from ray_unlearn.report.publish import publish
from ray_unlearn.store import StudyStore
from ray_unlearn.study.loading import load_study
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import without_keys
from ray_unlearn.terminal import print_error
from ray_unlearn.wording import duration, plural

MOST = 64
"""Runs a side that are enough: the smallest images' evidence grows little beyond."""
_GROWTH = 4
"""Factor by which the number of runs grows at most in one round, because a round's time is an estimate."""
_TRAINING_OVER_PREDICTION = 3.0
"""Time of a training step over that of a prediction of the same images: forward, and twice that backward."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Deletion:
    """What a deletion request left."""

    folder: Path
    findings: Findings
    lines: tuple[str, ...]
    """Closing lines: the verdict, the numbers, the files."""
    failed: str = ""
    """Why further models could not be made, so that the evidence is of those that were; empty where all went well."""

    @property
    def model(self) -> Path:
        """File of the unlearned model, a state dict; model.safetensors is the same."""
        return self.folder / "model.pth"

    @property
    def page(self) -> Path:
        """File of the page."""
        return self.folder / "deletion.html"

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        """Return the page in a frame, as a notebook shows it."""
        page = html.escape(self.page.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="720" style="border: 1px solid #ccc"></iframe>'


def forget(
    *,
    out: str | Path,
    budget: str = "30m",
    thumbnails: bool = False,
    backend: BackendName = "auto",
    most: int = MOST,
    log: Log = print_error,
    say: Log | None = None,
    **request: Any,
) -> Deletion:
    """Answer one deletion request.

    Args:
        out: folder for the study file, the model and the page.
        budget: time for making runs, such as 90s, 30m or 1h30m.
        thumbnails: put pictures of the forgotten images on the page.
        backend: as of `generate`.
        most: unlearned and retrained runs at most.
        log: called with one line per step of progress.
        say: older name of `log`.
        request: fields of `Request`: model, arch, data, ids, test, method, image_size, normalize, training, ...

    Raises:
        RayUnlearnError: a value, the data or the model is refused; the original's accuracy shows that it is not what it
            is taken for.

    """
    seconds = budget_s(budget)
    file = write(Request(**request), Path(out))
    return forget_study(file, seconds=seconds, thumbnails=thumbnails, backend=backend, most=most, log=say or log)


def forget_study(
    file: Path,
    overrides: Sequence[str] = (),
    *,
    seconds: float,
    thumbnails: bool = False,
    backend: BackendName = "auto",
    most: int = MOST,
    log: Log = print_error,
) -> Deletion:
    """Answer the deletion request of a study file; model and page are written into its folder.

    Raises:
        RayUnlearnError: as `forget`.

    """
    study = load_study(file, overrides)
    check_form(study, str(file))
    check_replaceable(study, file.parent)
    store = StudyStore.of(study)
    end, said = time.monotonic() + seconds, set[str]()
    try:
        _made(generate(with_count(study, 1), backend="inline", only=[ORIGINAL], said=said), "the original")
    except PopulationChanged as error:
        raise PopulationChanged(
            f"{file}: its models were made for another request: the list, the images, or the original that it names "
            f"have changed since; choose another folder (-o FOLDER, or that of the study file)\n{error}"
        ) from error
    try:
        check_scale(study, store)
        log(original.check(study, store))
    except ModelError:
        _make_room(store)
        raise
    warnings = original.warnings(study)
    for line in warnings:
        log(f"warning: {line}")
    study, note, failed = _make(file, study, store, end, partial(generate, said=said), backend, most, log)
    warnings += [line for line in (note, failed) if line]
    write_count(file, max(1, len(store.made(UNLEARNED))))
    scores = _scores(study, store, log)
    return replace(_written(file, overrides, study, store, scores, warnings, thumbnails), failed=failed)


def _make_room(store: StudyStore) -> None:
    """Remove an original that was refused, unless runs started from it: the corrected request gets its place."""
    if not store.indexes(UNLEARNED) and not store.indexes(RETRAINED):
        for name in (ORIGINAL, UNLEARNED, RETRAINED):
            store.storage.remove(store.layout.population(name))


def _made(summary: Summary, what: str) -> None:
    if summary.exit_code:
        raise StoreError(f"{what} could not be made: {next(iter(summary.failed.values()), 'the lines above say why')}")


def _make(
    file: Path,
    study: Study,
    store: StudyStore,
    end: float,
    make: Callable[..., Summary],
    backend: BackendName,
    most: int,
    log: Log,
) -> tuple[Study, str, str]:
    """Make the unlearned model, then pairs of unlearned and retrained runs until the budget is used.

    Returns:
        The study with the counts that were made; why there is no retrained model, or too few for a test, else empty;
        and why making them ended early, empty where no run failed.

    """
    _made(make(with_count(study, 1), backend="inline", only=[UNLEARNED]), "the unlearned model")
    log(f"the unlearned model is made; {duration(max(0.0, end - time.monotonic()))} of the budget are left")
    done = _pairs(store)
    expected_s = 0.0 if done else _retraining_s(study, store)
    if not done and expected_s > end - time.monotonic():
        note = (
            f"No model was retrained: one would take about {duration(expected_s)}, more than the budget leaves; "
            "--budget gives more time"
        )
        log(note)
        return with_count(study, 1), note, ""
    pair_s = expected_s
    while done < most:
        begun, left = time.monotonic(), end - time.monotonic()
        fits = int(left / pair_s) if pair_s else 1
        count = min(most, done + max(fits, 0 if done else 1), max(1, _GROWTH * done))
        if count <= done:
            break
        log(f"making unlearned and retrained models: {done} of each so far, {count} then")
        summary = make(with_count(study, count), backend=backend, only=[UNLEARNED, RETRAINED])
        if summary.exit_code:
            return with_count(study, count), "", _ended_early(file, summary)
        pair_s = (time.monotonic() - begun) / (count - done)
        done = count
    note = ""
    if done < min(words.FEW, most):
        more_min = math.ceil(pair_s * (words.FEW - done) / 60) + 1
        note = f"{done} of each are too few for a test; --budget {more_min}m is about enough for {words.FEW}"
        log(note)
    return with_count(study, max(done, 1)), note, ""


def _ended_early(file: Path, summary: Summary) -> str:
    run, why = next(iter(summary.failed.items()), (None, "; ".join(one.why for one in summary.ended)))
    shows = f"; `ray-unlearn logs {file} {run}` shows the traceback" if run else ""
    count = len(summary.failed) or sum(len(one.runs) for one in summary.ended)
    return (
        f"{plural(count, 'model')} could not be made, so this is the evidence of those that were made, "
        f"and no more were tried: {why}{shows}; the same command goes on from here"
    )


def _pairs(store: StudyStore) -> int:
    return min(len(store.made(UNLEARNED)), len(store.made(RETRAINED)))


def _retraining_s(study: Study, store: StudyStore) -> float:
    """Return about how long one retraining takes, from the time of the original's predictions."""
    record = next(iter(store.made(ORIGINAL).values()))
    return record.seconds.get("predict", 0.0) * _TRAINING_OVER_PREDICTION * study.training.epochs


def _scores(study: Study, store: StudyStore, log: Log) -> Scores | None:
    """Score the runs, and publish the study's own report; None where no retrained model is there."""
    try:
        scores = evaluate(study, store, log=log)
    except ReferenceNotMade:
        return None
    publish(store, "html")
    return scores


def _written(
    file: Path,
    overrides: Sequence[str],
    study: Study,
    store: StudyStore,
    scores: Scores | None,
    warnings: Sequence[str],
    thumbnails: bool,
) -> Deletion:
    """Write the model, its hashes and the page."""
    folder, run = file.parent, Run(population=UNLEARNED, index=0)
    files = write_models(store, run, folder)
    found = read_findings(study, store, scores)
    record = store.record(run)
    again = ["ray-unlearn", "forget", str(file), *(word for one in overrides for word in ("--set", one))]
    context = Context(
        files=files,
        command=without_keys(shlex.join([*again, "--budget", "2h"])),
        study_yaml=file.read_text(encoding="utf-8"),
        warnings=[*warnings, *(scores.warnings if scores else ())],
        versions=record.versions if record else {},
        detail=f"{study.name}/report.html" if scores else "",
        thumbnails=_pictures(study, store, found) if thumbnails else None,
    )
    result = Deletion(folder, found, tuple(_lines(file, without_keys(shlex.join(again)), found, files)))
    write_file(result.page, deletion_page(study, found, context).encode())
    return result


def _pictures(study: Study, store: StudyStore, found: Findings) -> dict[str, str]:
    made_of = (store.held(UNLEARNED) or {})["identity"]["data"]
    return drawn(study, made_of, [one.image_id for one in found.images])


def _lines(file: Path, again: str, found: Findings, files: Sequence[tuple[str, str]]) -> list[str]:
    folder = file.parent
    return [
        words.verdict(found),
        *words.reasons(found),
        *words.tested(found),
        *(f"{folder / name}  sha256 {sha256}" for name, sha256 in files),
        f"{folder / 'deletion.html'}: {plural(len(found.images), 'image')} by name, and what this does not prove",
        f"{file}: `{again}` repeats it",
    ]
