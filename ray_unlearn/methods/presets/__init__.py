"""Presets that were tuned: a data file per setting, written by `jobs/presets/tune.py` and read when first asked for.

    tuned_presets("finetune")                    # {"digits": {"batch_size": 64, "lr": 0.063, ...}, "cifar10": {...}}
    settings()["digits"].sentence                # what it was tuned on, in words

Chosen by retain and validation images with their labels and by forget images without: the objective is in
jobs/presets/objective.py. The choice saw neither a test image nor a forget label (a method that is tried may train on
the labels of the images that it forgets). Studies and records of all trials are in jobs/presets.

Does not cover: your data. The same job tunes on a study of your own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Data that presets of one name were tuned on, and the presets."""

    sentence: str
    """The setting, in words."""
    presets: Mapping[str, Mapping[str, Any]]
    """Method -> options."""


@functools.cache
def settings() -> Mapping[str, Setting]:
    """Return every setting by name; the files are read once."""
    files = sorted(f.name for f in resources.files(__name__).iterdir() if f.name.endswith(".json"))
    read = {
        name.removesuffix(".json"): json.loads(resources.files(__name__).joinpath(name).read_text()) for name in files
    }
    return {name: Setting(sentence=each["sentence"], presets=each["presets"]) for name, each in read.items()}


def tuned_presets(method: str) -> dict[str, Mapping[str, Any]]:
    """Return a method's tuned presets by setting."""
    return {name: setting.presets[method] for name, setting in settings().items() if method in setting.presets}
