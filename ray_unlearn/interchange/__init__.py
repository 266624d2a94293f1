"""Populations that other programs made, read into a study that can be scored; and ours, written as they read them.

    images, populations = READERS["klom"](Request(paths={"retrained": folder}, forget=file))
    write_study(Path("out"), "klom", images, populations, reference="retrained", form="klom")
    export_outputs(store, ["retrained", "scrub"], "klom", Path("klom"), reference="retrained")

Does not cover: checkpoints of other programs, which `weights: FILES` imports; scores (`ray_unlearn.evaluation`).
"""

from __future__ import annotations

from collections.abc import Callable

from ray_unlearn.interchange.brought import Brought, Images
from ray_unlearn.interchange.logits import read_lira, read_logits
from ray_unlearn.interchange.margins import read_datamodels, read_easydub, read_klom
from ray_unlearn.interchange.request import Request

READERS: dict[str, Callable[[Request], tuple[Images, list[Brought]]]] = {
    "klom": read_klom,
    "easydub": read_easydub,
    "datamodels": read_datamodels,
    "lira": read_lira,
    "logits": read_logits,
}
"""Reader by format."""
TAKES: dict[str, tuple[str, ...]] = {
    "klom": ("forget", "train", "labels", "epoch"),
    "easydub": ("labels", "epoch", "forget_set"),
    "datamodels": ("forget", "train", "labels"),
    "lira": ("forget", "labels", "epoch", "augmentation"),
    "logits": ("forget", "train", "labels", "epoch"),
}
"""Options by format, besides ids: what its files do not say."""
