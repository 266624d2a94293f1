"""The net and the imported weights of a job, tried before any run.

    lines = list(check_model(job))               # or a ModelError

Does not cover: how a net is tried (`models.trial`), how weights are read (`models.weights`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.copies import lone_batches
from ray_unlearn.data.images import ImageSet, Pixels, Scaling
from ray_unlearn.errors import DataError, MethodError, ModelError, PopulationChanged
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.script import ScriptOptions
from ray_unlearn.methods.weights import WeightsOptions
from ray_unlearn.models.image_scales import Scales
from ray_unlearn.run.job import Job
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import refusal_of_frozen
from ray_unlearn.study.plan import Population
from ray_unlearn.study.schema import Normalize, Study
from ray_unlearn.study.uris import label
from ray_unlearn.training.packed import try_packed

_TRIED_IMAGES = 2  # a training step of a large net on large images takes seconds per image
_JUDGED_IMAGES = 64
_FEWEST_OF_A_CLASS, _MOST_OF_A_CLASS = 3, 2 / 3
"""Images of a class, of those judged, and share of them that a net has to take for one other class."""
_CANNOT = "and the net cannot take a training step on one (batch normalisation needs two values per channel)"


def check_model(job: Job) -> Iterator[str]:
    """Try the net on images of the study, and load every weights file that the study names; yield what to know.

    Raises:
        ModelError: the net or a weights file is refused.
        MethodError: the net lacks what a method changes.
        PopulationChanged: it holds runs of version 0.1.0 by a method that changed frozen parameters, which the net has.

    """
    study, populations = job.plan.study, job.plan.populations.values()
    model = models.build(study.model, job.data.num_classes, Seeds(study=0), study.data.image_size)
    _check_frozen(job, model)
    images_BCHW, labels_B = _batch(job)
    yield from models.try_net(
        model,
        images_BCHW,
        labels_B,
        num_classes=job.data.num_classes,
        arch=study.model.arch,
        trains=any(trains(population) for population in populations),
        folder=study.model.folder,
    )
    if study.execution.pack > 1 and not all(population.method.no_pack for population in populations):
        try_packed(model, images_BCHW, labels_B)
    for population in populations:
        _check_method(job, population, model)
    yield from _pretrained(job)
    scaling = Scaling.of(study.data.normalize)
    if ":" in study.model.arch and (line := models.scaled_twice(model, images_BCHW, scaling)):
        yield f"model {study.model.arch}: {line}"
    if ":" in study.model.arch and any(trains(population) or population.method.source for population in populations):
        yield from _check_state(job, model, images_BCHW)
    yield from _unknown_values(job)
    yield from _shared_files(job)
    for population in populations:
        if isinstance(population.method.options, WeightsOptions):
            yield from check_weights(study, job.data.num_classes, model, population.method.options)
            yield from _at_chance(job, model, population.method.options.weights[-1])


def _check_method(job: Job, population: Population, model: nn.Module) -> None:
    """Check that a net has what a population's method, or each method of a mix, changes, where runs are to be made.

    Raises:
        MethodError: it lacks that.

    """
    use = population.method
    parts = [(part.method, part.options) for part in getattr(use.options, "parts", ())]
    for name, options in [] if use.source else parts or [(use.name, use.options)]:
        check = METHODS[name].check
        try:
            if check is not None:
                check(model, options, job.data.num_classes)
        except MethodError as error:
            if len(job.store.indexes(population.name)) == population.count:  # an earlier version made them
                return
            raise MethodError(f"populations.{population.name}: {error}") from error


def _check_frozen(job: Job, model: nn.Module) -> None:
    """Check that no run of a population changed frozen parameters, in a version that did that."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        return
    for name, population in job.plan.populations.items():
        corrections = population.method.corrections
        held = job.store.held(name) if corrections and not job.store.is_given_up(name) else None
        if held is not None and (lines := refusal_of_frozen(held, corrections)):
            raise PopulationChanged(
                f"population {name} in {job.store.uri} was made differently, and the net has frozen parameters:\n"
                + "\n".join(lines)
            )


def check_weights(study: Study, num_classes: int, model: nn.Module, options: WeightsOptions) -> Iterator[str]:
    """Load every file into the model; yield what was done with each, the same once.

    Raises:
        ModelError: a file cannot be read, does not fit, or its net scaled images otherwise than the study does.

    """
    known: set[str] = set()
    for path in options.weights:
        found = models.load_weights(model, models.open_weights(path).tree(), path, options.key, num_classes=num_classes)
        notes = [*found.notes, *_check_normalisation(study, found.normalisation, label(path))]
        if found.named and not _scales_so(study, found.named):
            mean, std = map(list, found.named)
            notes.append(
                f"{label(path)}: it names mean {mean} and std {std} beside the weights, and the study scales images "
                f"otherwise; if its net was trained so, set data.normalize: {{mean: {mean}, std: {std}}}"
            )
        for note in notes:
            text = note.removeprefix(f"{label(path)}: ")
            if text not in known:
                yield note
            known.add(text)


def _at_chance(job: Job, model: nn.Module, path: str) -> Iterator[str]:
    """Yield a line where the model, which holds a file's net, is no better on training images than one class is."""
    first = job.data.train
    if first.storage.local is None:
        return
    pixels = Pixels(first.map(), torch.device("cpu"))
    rows = Seeds(study=0).numpy("chance").permutation(len(pixels))[:_JUDGED_IMAGES]
    images = ImageSet(pixels, rows, Scaling.of(job.plan.study.data.normalize))
    images_BCHW, labels_B = images.batch(np.arange(len(rows)))
    with torch.no_grad():
        predicted_B = models.Template(model).copy().eval()(images_BCHW).argmax(1)
    right = int((predicted_B == labels_B).sum())
    largest = int(torch.bincount(labels_B).max())
    if right <= largest + 3 * (largest * (1 - largest / len(rows))) ** 0.5:
        yield (
            f"{label(path)}: its net is right on {right} of {len(rows)} training images, and {largest} of them are of "
            "one class, so it knows no more than chance: check data.image_size and data.normalize (as it was trained), "
            "the order of the classes, and that it is a trained one"
        )
    elif swapped := _swapped(predicted_B, labels_B):
        names = job.data.class_names or ()
        pairs = (" for ".join(names[one] if names else str(one) for one in pair) for pair in swapped.items())
        yield (
            f"{label(path)}: its net takes most training images of some classes for those of another ("
            f"{', '.join(pairs)}): check the order of the classes"
        )


def _swapped(predicted_B: torch.Tensor, labels_B: torch.Tensor) -> dict[int, int]:
    """Return class -> class that the net predicts for most of its images, for classes that change places.

    A class is left out where that class is predicted for fewer than `_FEWEST_OF_A_CLASS` of its images, or than a share
    `_MOST_OF_A_CLASS`.
    """
    found = {}
    for true in sorted({*labels_B.tolist()}):
        predicted, votes = Counter(predicted_B[labels_B == true].tolist()).most_common(1)[0]
        if predicted != true and votes >= max(_FEWEST_OF_A_CLASS, _MOST_OF_A_CLASS * int((labels_B == true).sum())):
            found[true] = predicted
    while {*found} != {*found.values()}:
        found = {true: predicted for true, predicted in found.items() if true in found.values() and predicted in found}
    return found


def _check_normalisation(study: Study, found: Scales | None, where: str) -> Iterator[str]:
    """Check that a study scales its images as the file's net did inside itself.

    Raises:
        ModelError: it scales them otherwise.

    """
    if found is None:
        return
    mean, std = (list(values) for values in found)
    if not _scales_so(study, found):
        raise ModelError(
            f"{where}: its net scales images itself, by mean {mean} and std {std} of pixels in 0..1, and the study's "
            f"does not; set data.normalize: {{mean: {mean}, std: {std}}}"
        )
    yield f"{where}: its net scaled images itself; data.normalize does the same, so mean and std are left out"


def _scales_so(study: Study, scales: Scales) -> bool:
    """Return whether a study scales images by this mean and standard deviation."""
    mean, std = (list(values) for values in scales)
    own, theirs = (Scaling.of(each) for each in (study.data.normalize, Normalize(mean=mean, std=std)))
    return np.allclose(own.shift + own.scale, theirs.shift + theirs.scale, rtol=1e-3, atol=0.1)


def _pretrained(job: Job) -> Iterator[str]:
    """Yield what was done with pretrained weights, and where the study scales images otherwise than they were."""
    study = job.plan.study
    found = models.started_from(study.model, job.data.num_classes, study.data.image_size)
    if found is None:
        return
    yield from found.notes
    if found.normalisation is not None:
        mean, std = (list(values) for values in found.normalisation)
        if not _scales_so(study, found.normalisation):
            yield (
                f"model.pretrained: the weights are of images scaled by mean {mean} and std {std} of pixels in 0..1, "
                f"and the study scales otherwise; data.normalize: {{mean: {mean}, std: {std}}} does the same"
            )


def _batch(job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a few images as methods get them, and their labels; noise where the images are on an object store."""
    study, first = job.plan.study, job.data.train
    count = min(_TRIED_IMAGES, first.manifest.num_images)
    if first.storage.local is None:
        return noise(study, job.data.num_classes, count)
    pixels = Pixels(first.map(first=1), torch.device("cpu"))
    images = ImageSet(pixels, np.arange(min(count, len(pixels))), Scaling.of(study.data.normalize))
    images_BCHW, labels_B = images.batch(np.arange(len(images)))
    return images_BCHW.contiguous(), labels_B


def noise(study: Study, num_classes: int, count: int = _TRIED_IMAGES) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of noise as methods get images, float32 [count, 3, H, W], and labels, int64 [count]."""
    side = study.data.image_size
    pixels_BHWC = Seeds(study=0).numpy("trial").integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    images_BCHW = Scaling.of(study.data.normalize).apply(torch.from_numpy(pixels_BHWC))
    return images_BCHW.contiguous(), torch.arange(count) % num_classes


def trains(population: Population) -> bool:
    """Return whether a method of this package trains the net."""
    return not population.method.source and population.method.name not in ("weights", "null")


def _check_state(job: Job, model: nn.Module, images_BCHW: torch.Tensor) -> Iterator[str]:
    """Check that a factory's net has all that its outputs depend on in its state; yield what nothing would train.

    Raises:
        ModelError: it keeps more than its state dict holds.

    """
    spec, populations = job.plan.study.model, job.plan.populations.values()
    other = models.build(spec, job.data.num_classes, Seeds(study=1), job.plan.study.data.image_size)
    models.check_state(model, other, images_BCHW, spec.arch)
    again = models.build(spec, job.data.num_classes, Seeds(study=0), job.plan.study.data.image_size)
    if not all(map(torch.equal, model.state_dict().values(), again.state_dict().values())):
        yield (
            f"model {spec.arch}: the factory gives other weights with the same seed, so no run from scratch can be "
            "repeated; draw from torch's, NumPy's or Python's global generator, which are seeded, and set no seed"
        )
    yield from (f"model {spec.arch}: {line}" for line in models.untrained(model))
    if models.seeds_itself(model, images_BCHW):
        yield f"model {spec.arch}: its forward sets torch's seed, so noise that methods draw repeats at every step"
    from_scratch = any(each.method.starts_from == "scratch" and trains(each) for each in populations)
    if from_scratch and all(map(torch.equal, model.parameters(), other.parameters())):
        yield (
            f"model {spec.arch}: the factory gives the same weights with every seed, so runs from scratch differ by "
            "the order of images alone; leave out what sets torch's seed or loads weights, if that is not meant"
        )


def _unknown_values(job: Job) -> Iterator[str]:
    """Yield what a script reads from its batches that the source does not know."""
    scripts = {name: each.method.source for name, each in job.plan.populations.items() if each.method.source}
    for key, column in (("age", "age"), ("person_id", "group")) if scripts else ():
        readers = [name for name, source in scripts.items() if re.search(rf"""\[\s*["']{key}["']\s*\]""", source)]
        if readers and not _known(job, column):
            yield (
                f"populations.{readers[0]}: the script reads {key!r}, which data.train has for no image, so it is 0; "
                f"data.columns.{column} names its column"
            )


_SHARED = re.compile(
    r"""["'](?P<path>/(?:tmp|var/tmp|dev/shm|kaggle/working|kaggle/temp|content)/[^"'\n]+)["']"""
    r"""|(?P<call>\bchdir\()"""
    r"""|(?P<beside>(?:\bsave\w*\(|\bdump\(|\bto_csv\(|\bwrite_\w+\(|\bmkdir\(|\bmakedirs\()[^\n;]*__file__)"""
)
"""What scripts write for the whole machine: places of temporary files and of notebooks, and files beside themselves."""


def _shared_files(job: Job) -> Iterator[str]:
    """Yield where the runs of a script would share files."""
    for population in job.plan.populations.values():
        code = re.sub(r"(?m)^\s*#.*$", "", population.method.source)
        if found := _SHARED.search(code):
            what = f"names {found['path']!r}" if found["path"] else "leaves its working folder" if found["call"] else ""
            yield (
                f"populations.{population.name}: the script {what or 'writes beside itself'}, so its runs share files: "
                "one may read what another wrote; a relative path is in the run's own folder, which is empty at its "
                "start, and files beside the script are for reading (pathlib.Path(__file__).parent)"
            )


def _known(job: Job, column: str) -> bool:
    """Return whether an image of the training source has an age, or a group."""
    values = (value for table in job.data.train.columns() for value in table[column].to_pylist())
    return any(value and str(value) != "nan" for value in values)


def lone_images(job: Job) -> tuple[str, ...]:
    """Return where a batch of one image would meet a net that cannot be trained on one.

    Raises:
        DataError: data.strict, and it would.

    """
    lines, study = (*_lone_of_scripts(job), *_lone_of_methods(job)), job.plan.study
    if not lines:
        return ()
    model = models.build(study.model, job.data.num_classes, Seeds(study=0), study.data.image_size)
    if not models.fails_on_one(model, _batch(job)[0]):
        return ()
    if study.data.strict:
        raise DataError(f"data.strict: {lines[0]}")
    return lines


def _lone_of_scripts(job: Job) -> Iterator[str]:
    for population in job.plan.populations.values():
        options = population.method.options
        if not isinstance(options, ScriptOptions):
            continue
        for line in lone_batches(population.name, options.batch_size, job.data.splits.sizes()):
            yield f"{line}, {_CANNOT}; another batch_size avoids it"


def _lone_of_methods(job: Job) -> Iterator[str]:
    if any(trains(population) for population in job.plan.populations.values()):
        for name in ("retain", "forget"):
            if job.data.splits.sizes()[name] == 1:
                yield f"data: the {name} set has one image, {_CANNOT}; methods that train on it alone fail"
