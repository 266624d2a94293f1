"""A study whose runs take a moment, so that something can be killed in the middle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from conftest import TINY, merged, payload_bytes
from safetensors.torch import save_file

from ray_unlearn.generation import generate
from ray_unlearn.models import small_cnn
from ray_unlearn.store import Storage
from ray_unlearn.study import Study, parse_study
from ray_unlearn.study.places import Places

NET = """\
import time
from pathlib import Path

from ray_unlearn.models import small_cnn

QUICKLY = Path(__file__).with_name("quickly")


def make(num_classes, width):
    net = small_cnn(num_classes, width)
    net.register_forward_pre_hook(wait)
    return net


def wait(net, images):
    if net.training and not QUICKLY.exists():
        time.sleep(0.1)
"""
"""A net that takes 0.1 s for each of the three batches of an epoch, until there is a file `quickly` next to it."""


def slow_study(folder: Path, count: int) -> dict[str, Any]:
    """Return a study of one imported original and `count` runs of 0.3 s; its files are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slow_net.py").write_text(NET)
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    save_file(small_cnn(10, width=4).state_dict(), folder / "original.safetensors")
    torch.random.set_rng_state(generator_state)
    populations = {
        "original": {"weights": str(folder / "original.safetensors")},
        "mine": {"method": "finetune", "count": count, "noise_std": 0.01},
    }
    changes = {"storage": str(folder / "store"), "model": {"arch": "slow_net:make"}}
    return merged(TINY, changes) | {"populations": populations}


def slow_study_in(folder: Path, count: int) -> Study:
    """Return the study itself, as it is read from a file in `folder`."""
    return parse_study(slow_study(folder, count), where="slow").with_file(Places(), str(folder))


def mixed_study_in(folder: Path, count: int) -> Study:
    """Return a study of a trained original, 3 fine-tuned runs and `count` slow ones."""
    tree = slow_study(folder, count)
    tree["populations"] |= {name: TINY["populations"][name] for name in ("original", "finetune")}
    return parse_study(tree, where="slow").with_file(Places(), str(folder))


def hurry(folder: Path) -> None:
    """Let the runs of the study in `folder` take no time from now on."""
    (folder / "quickly").touch()


def unhurt(folder: Path, count: int) -> dict[str, bytes]:
    """Return the payloads of the study in `folder`, made here without a wait and without an interruption."""
    study = slow_study_in(folder, count)
    hurry(folder)
    assert generate(study, backend="inline").made == count + 1
    return payload_bytes(folder / "store/tiny")


class SlowStorage(Storage):
    """Takes 1 s for the second run of `mine`, and states first which run it is at."""

    def publish_folder(self, name: str, payloads: Mapping[str, bytes], last: tuple[str, bytes]) -> None:
        """Write a file `at` into the storage, wait where it is that run, then publish."""
        (Path(self.root) / "at").write_text(name)
        time.sleep(name.endswith("mine/00001"))
        Storage.publish_folder(self, name, payloads, last)


def records_in(folder: Path) -> int:
    """Return how many runs of the study in `folder` are recorded."""
    return len(list((folder / "store/tiny").glob("*/0*/record.json")))
