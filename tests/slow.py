"""A study whose runs take a moment, so that something can be killed in the middle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from conftest import TINY, merged
from safetensors.torch import save_file

from ray_unlearn.models import small_cnn
from ray_unlearn.store import Storage

SCRIPT = """\
import time

import torch


def unlearning(net, retain_loader, forget_loader, val_loader):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.01)
    time.sleep(0.3)
"""


def slow_study(folder: Path, count: int, seconds: float = 0.3) -> dict[str, Any]:
    """Return a study of one imported original and `count` runs of 0.3 s, or of another time: the bytes are the same.

    Its files are in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slow.py").write_text(SCRIPT.replace("0.3", str(seconds)))
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    save_file(small_cnn(10, width=4).state_dict(), folder / "original.safetensors")
    torch.random.set_rng_state(generator_state)
    populations = {
        "original": {"weights": str(folder / "original.safetensors")},
        "mine": {"method": f"{folder / 'slow.py'}:unlearning", "count": count},
    }
    return merged(TINY, {"storage": str(folder / "store")}) | {"populations": populations}


class SlowStorage(Storage):
    """Takes 1 s for every run, and states first which one it is at."""

    def publish_folder(self, name: str, payloads: Mapping[str, bytes], last: tuple[str, bytes]) -> None:
        """Write a file `at` into the storage, wait, then publish."""
        (Path(self.root) / "at").write_text(name)
        time.sleep(1)
        Storage.publish_folder(self, name, payloads, last)


def records_in(folder: Path) -> int:
    """Return how many runs of the study in `folder` are recorded."""
    return len(list((folder / "store/tiny").glob("*/0*/record.json")))
