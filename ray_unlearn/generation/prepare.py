"""prepare(): decode a study's images and draw its splits; make nothing else.

    data = prepare(study, backend="inline")
    data.splits.sizes()

Does not cover: how images are decoded (`ray_unlearn.data`).
"""

from __future__ import annotations

from ray_unlearn.data.study_data import StudyData, prepare_study
from ray_unlearn.evaluation.memorisation import hardest_of
from ray_unlearn.generation.backends import BackendName, open_backend
from ray_unlearn.interrupts import interrupts
from ray_unlearn.store import open_storage
from ray_unlearn.study.loading import located
from ray_unlearn.study.schema import Study


def prepare(study: Study, *, backend: BackendName = "ray", address: str | None = None) -> StudyData:
    """Decode a study's images and draw its splits; make nothing else.

    Raises:
        RayUnlearnError: the data are refused, or the cluster cannot be reached or started.

    """
    with interrupts(), open_backend(backend, address=address) as place, located(study):
        storage = open_storage(study.storage)
        return prepare_study(study, storage, place.decode_all, hardest=hardest_of(study, storage))
