"""execution.isolate: all: every run over a factory's net has a worker of its own, whatever the net does there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, merged, payload_bytes
from torch import nn

from ray_unlearn.generation import Summary, generate
from ray_unlearn.study import parse_study
from ray_unlearn.study.places import Places

SPOILS = """\
import os
from torch import nn
from ray_unlearn.models import small_cnn

FORWARD = nn.BatchNorm2d.forward


def make(num_classes):
    net = small_cnn(num_classes, 4)
    net.register_forward_pre_hook(spoil)
    return net


def spoil(net, images):
    if net.training:
        steps = nn.BatchNorm2d.steps = getattr(nn.BatchNorm2d, "steps", 0) + 1
        nn.BatchNorm2d.forward = lambda self, x: FORWARD(self, x) * (1 + steps / 100)
        os.chdir("/")
"""
"""A net whose outputs depend on the number of training steps that its process has seen."""
ENDS = """\
import os, signal
from ray_unlearn.models import small_cnn


def make(num_classes):
    net = small_cnn(num_classes, 4)
    net.register_forward_pre_hook(end)
    return net


def end(net, images):
    if len(images[0]) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""A net that kills its process at the first batch of more than the two images with which it is tried."""
NEIGHBOUR = {"neighbour": {"method": "finetune", "count": 2, "epochs": 2}}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Summary, dict[str, bytes]]]:
    """Return a function: a net's module, populations, options -> the summary, and payloads of finetune and original."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", nn.BatchNorm2d.forward)  # put back what a net does to this process

    def make(name: str, populations: dict[str, Any], isolate: str, **how: Any) -> tuple[Summary, dict[str, bytes]]:
        monkeypatch.setattr(nn.BatchNorm2d, "steps", 0, raising=False)
        folder = tmp_path / f"{name}-{isolate}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / f"{name}.py").write_text({"spoils": SPOILS, "ends": ENDS}[name])
        changes = {
            "storage": str(folder / "store"),
            "model": {"arch": f"{name}:make", "options": None},
            "populations": populations,
            "execution": {"isolate": isolate, "max_attempts": 1},
        }
        study = parse_study(merged(TINY, changes), where="isolated").with_file(Places(), str(folder))
        summary = generate(study, **how)
        found = payload_bytes(folder / "store/tiny")
        return summary, {name: data for name, data in found.items() if name.startswith(("finetune", "original"))}

    return make


def test_what_a_net_does_to_its_process_changes_no_other_run(made):
    """Law: with and without another population, here and in a forked worker: the same bytes; unisolated, others."""
    alone, neighbours = ({"finetune": {"count": 2}}, {"finetune": {"count": 2}} | NEIGHBOUR)
    summary, expected = made("spoils", alone, "all", backend="inline")
    assert (summary.made, len(expected)) == (3, 6)
    assert made("spoils", neighbours, "all", backend="inline", workers=1)[1] == expected
    shared = [made("spoils", populations, "scripts", backend="inline")[1] for populations in (alone, neighbours)]
    assert shared[0] != shared[1]


def test_a_net_that_kills_its_process_fails_its_run_alone(made):
    """Law: the worker goes on, and says how the process ended."""
    summary, _ = made("ends", {"finetune": None}, "all", backend="inline")
    (error,) = summary.failed.values()
    assert error == "worker process died: it was ended by signal SIGKILL (Killed)"


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_too(made):
    """Law: the same bytes on Ray."""
    alone, neighbours = ({"finetune": {"count": 2}}, {"finetune": {"count": 2}} | NEIGHBOUR)
    expected = made("spoils", alone, "all", backend="inline")[1]
    assert made("spoils", neighbours, "all", backend="ray", workers=2)[1] == expected
