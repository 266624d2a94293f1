"""prepare(): decode a study's images and draw its splits; make nothing else.

    data = prepare(study, backend="inline")
    data.splits.sizes()

Does not cover: how images are decoded (`ray_unlearn.data`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ray_unlearn.data.copies import lone_batches
from ray_unlearn.data.study_data import StudyData, prepare_study
from ray_unlearn.evaluation.memorisation import hardest_of
from ray_unlearn.generation.backends import BackendName, open_backend
from ray_unlearn.interrupts import interrupts
from ray_unlearn.store import open_storage
from ray_unlearn.study.loading import located
from ray_unlearn.study.schema import Study
from ray_unlearn.usercode.imports import is_script


def prepare(study: Study, *, backend: BackendName = "auto", address: str | None = None) -> StudyData:
    """Decode a study's images and draw its splits; make nothing else.

    Raises:
        RayUnlearnError: the data are refused, or the cluster cannot be reached or started.

    """
    with interrupts(), open_backend(backend, address=address) as place, located(study):
        storage = open_storage(study.storage)
        data = prepare_study(study, storage, place.decode_all, hardest=hardest_of(study, storage))
    return replace(data, warnings=(*data.warnings, *_lone_batches(study, data.splits.sizes())))


def _lone_batches(study: Study, sizes: Mapping[str, int]) -> Iterator[str]:
    """Yield where a script's loader ends with one image; `generate` tries whether the net can be trained on one."""
    scripts = {name: spec for name, spec in study.populations.items() if is_script(spec.method_name)}
    if scripts:
        from ray_unlearn.methods.script import ScriptOptions  # imports torch

        usual = ScriptOptions.model_fields["batch_size"].default
        for name, spec in scripts.items():
            size = spec.options.get("batch_size", usual)
            for line in lone_batches(name, size, sizes) if isinstance(size, int) and size > 0 else ():
                yield f"{line}: batch normalisation over maps of one pixel fails on it; another batch_size avoids it"
