"""Packed runs: several trained in one step; each one's bytes depend on the run and on the pack's size alone."""

from __future__ import annotations

import copy
import json
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, merged, payload_bytes
from samples import run_data, same_weights
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError, ModelError, StoreError, StudyError, TrainingDiverged
from ray_unlearn.generation import generate, open_job
from ray_unlearn.methods import METHODS
from ray_unlearn.run.worker import Worker
from ray_unlearn.schedule.batching import Batching
from ray_unlearn.schedule.order import in_order
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import Run, Study, parse_study
from ray_unlearn.study.model import Model
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.training import fit
from ray_unlearn.training.packed import Pack, Slot, try_packed

HOW = {"epochs": 1.0, "batch_size": 8, "augment": Augment(crop=1, flip=True), "lr": 1e-2}
RECIPES = {
    "sgd": Recipe(optimizer="sgd", schedule="cosine", **HOW),
    "adam": Recipe(optimizer="adam", class_weights="inverse", **HOW),
    "adamw": Recipe(optimizer="adamw", **HOW | {"epochs": 0.67}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return run_data(tmp_path_factory.mktemp("data"), normalize="standard")


def net(index: int) -> nn.Module:
    """Return a net with batch normalisation, another one for each run."""
    return models.build(Model(arch="small_cnn", options={"width": 2}), 3, Seeds(study=0, run=index))


def rng(index: int) -> Seeds:
    return Seeds(study=0, population="packed", run=index)


def packed(data: RunData, recipe: Recipe, runs: dict[int, int], size: int = 3, **spoiled: nn.Module) -> dict[int, Any]:
    """Train runs {slot: index} in one pack; return what each leaves, by index."""
    pack, nets = Pack(size), {index: spoiled.get(f"net{index}", net(index)) for index in runs.values()}
    for slot, index in runs.items():
        fit(nets[index], replace(data, slot=Slot(pack, slot)), recipe, rng(index))
    errors = pack.train()
    return {index: errors.get(slot, nets[index].state_dict()) for slot, index in runs.items()}


@pytest.mark.parametrize("how", RECIPES)
def test_a_packed_runs_bytes_do_not_depend_on_its_neighbours(data: RunData, how: str) -> None:
    """Law: with others, with one other, alone, and with runs that joined in another order: the same bits.

    They agree with the run trained by itself to rounding, batch normalisation's statistics and counters included.
    """
    recipe = RECIPES[how]
    found = packed(data, recipe, {0: 0, 1: 1, 2: 2})
    for others in ({2: 4, 1: 1}, {1: 1})[: 2 if how == "sgd" else 1]:
        assert same_weights(packed(data, recipe, others)[1], found[1])
    assert not same_weights(found[0], found[2])
    alone = net(1)
    fit(alone, data, recipe, rng(1))
    for name, tensor in alone.state_dict().items():
        assert torch.allclose(found[1][name].float(), tensor.float(), rtol=1e-3, atol=1e-4), name


def test_a_run_that_diverges_ends_alone(data: RunData) -> None:
    """Law: infinite weights in one slot change no bit of another, and fail that run with its own epoch."""
    broken = net(0)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("inf"))
    found = packed(data, RECIPES["sgd"], {0: 0, 1: 1}, net0=broken)
    assert isinstance(found[0], TrainingDiverged)
    assert "epoch 1 is nan" in str(found[0])
    assert same_weights(found[1], packed(data, RECIPES["sgd"], {0: 2, 1: 1})[1])


def test_frozen_weights_stay(data: RunData) -> None:
    """Law: what needs no gradient is stacked, too, and does not move."""
    frozen = net(0)
    first, *others = frozen.parameters()
    first.requires_grad_(False)
    before = first.clone(), others[0].clone()
    packed(data, RECIPES["sgd"], {0: 0, 1: 1}, net0=frozen, net1=copy.deepcopy(frozen))
    assert torch.equal(first, before[0])
    assert not torch.equal(others[0], before[1])


def test_what_cannot_be_packed_is_refused(data: RunData) -> None:
    """Law: a second training, an objective of the method's own, or another recipe is an error of that run."""
    recipe = RECIPES["sgd"]
    pack = Pack(2)
    fit(net(0), replace(data, slot=Slot(pack, 0)), recipe, rng(0))
    hows: list[tuple[int, dict[str, Any]]] = [
        (0, {}),
        (1, {"loss": lambda *_: None}),
        (1, {"sets": ("retain", "forget")}),
    ]
    for slot, how in hows:
        with pytest.raises(MethodError, match="trains more than once, or more than cross-entropy"):
            fit(net(0), replace(data, slot=Slot(pack, slot)), recipe, rng(0), **how)
    with pytest.raises(MethodError, match="other recipes or numbers of images"):
        fit(net(1), replace(data, slot=Slot(pack, 1)), RECIPES["adam"], rng(1))


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.layer(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3)), Deciding()], ids=["draws", "decides"]
)
def test_a_net_that_cannot_be_stacked_is_refused_before_work(model: nn.Module) -> None:
    """Law: random numbers in a forward pass, and decisions by values, are one error with torch's reason."""
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(ModelError, match=r"the net cannot be trained with the weights of several runs .*pack: 1"):
        try_packed(model, images, labels)
    before = copy.deepcopy(net(0).state_dict())
    kept = net(0)
    try_packed(kept, images, labels)
    assert same_weights(kept.state_dict(), before)


def study_in(folder: Path, pack: int = 2, **changes: Any) -> Study:
    populations = {
        "original": {"method": "train", "on": "train"},
        "retrained": {"method": "retrain", "count": 3},
        "finetune": {"method": "finetune", "count": 2, "noise_std": 0.01},
        "kookmin": {"method": "kookmin", "epochs": 1, "count": 1},
    }
    own = {"storage": str(folder), "populations": populations, "execution": {"pack": pack, "device": "cpu"}}
    return parse_study(merged(merged({**TINY, "populations": {}}, own), changes), where="tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    summary = generate(study_in(folder, stages={"metrics": True}), backend="inline")
    assert (summary.made, summary.exit_code) == (7, 0)
    return folder


def test_one_run_is_one_record_that_states_the_pack(made: Path) -> None:
    """Law: each run has its own record, losses, stages and payloads; a packed one's conditions have the size."""
    files = made.glob("tiny/*/0*/record.json")
    records = {f"{path.parent.parent.name} {path.parent.name}": json.loads(path.read_text()) for path in files}
    assert len(records) == 7
    packs = {name: record["arithmetic"].get("pack") for name, record in records.items()}
    assert {pack for name, pack in packs.items() if "kookmin" in name} == {None}
    assert {pack for name, pack in packs.items() if "kookmin" not in name} == {"2"}
    losses = [tuple(record["epoch_loss"]) for record in records.values()]
    assert len(set(losses)) == 7
    assert all(len(record["stages"]) == len(record["epoch_loss"]) == 1 for record in records.values())
    assert len({record["payloads"]["outputs.arrow"]["sha256"] for record in records.values()}) == 7


def test_a_lost_run_is_made_again_with_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """Law: one worker call per run, backwards, and runs made again alone give the bytes of whole packs."""
    job = open_job(study_in(tmp_path, stages={"metrics": True}))
    job.store.admit(job.plan)
    worker = Worker(job, "cpu")
    worker.open()
    original, *others = job.plan.runs
    for run in (original, *reversed(others)):
        assert [one.error for one in worker.work([(run, 1)], flush=True)] == [""]
    worker.close()
    whole = {name: data for name, data in payload_bytes(made / "tiny").items() if "splits" not in name}
    assert payload_bytes(tmp_path / "tiny") == whole


def test_a_population_does_not_mix_packs(made: Path) -> None:
    """Law: another size is one error that names the population, both sizes and the way out."""
    with pytest.raises(StoreError, match=r"original: 1 of its runs were trained with execution.pack: 2, and now .* 1,"):
        generate(study_in(made, 1, stages={"metrics": True}), backend="inline")
    assert generate(study_in(made, stages={"metrics": True}), backend="inline").made == 0


def test_the_driver_says_what_is_not_packed(tmp_path: Path) -> None:
    """Law: a line per reason; a study of which nothing can be packed is refused; digests do not change."""
    resumed = {"populations": {"finetune": {"precision": "bf16"}}, "execution": {"resume_every_minutes": 5}}
    job = open_job(study_in(tmp_path, **resumed))
    found = [line for line in job.remarks if line.startswith("execution.")]
    assert found == [
        "execution.resume_every_minutes: interrupted runs of original, retrained begin anew: a pack is trained in one "
        "go; with execution.pack: 1, they go on",
        "execution.pack: runs of finetune are trained one by one: precision bf16: packed steps are computed in fp32",
        "execution.pack: runs of kookmin are trained one by one: kookmin does more than train on one set with "
        "cross-entropy",
    ]
    ours, theirs = (open_job(study_in(tmp_path, size)).plan.populations.values() for size in (1, 4))
    assert [one.digest for one in ours] == [one.digest for one in theirs]
    halves = {"method": "train", "on": {"half_of": "train", "balanced": True}, "count": 2}
    none = {"original": {"precision": "bf16"}, "retrained": None, "finetune": None, "shadows": halves}
    with pytest.raises(StudyError, match=r"pack: 2 packs no population; set it to 1: .* see different images"):
        open_job(study_in(tmp_path, populations=none))


def test_packs_stay_together(tmp_path: Path) -> None:
    """Law: runs of a pack follow each other, and go to one worker, however long they take and few are left."""
    plan = open_job(study_in(tmp_path)).plan
    order = in_order(plan, plan.runs, interleave=True)
    assert [str(run) for run in order[1:]] == [
        "retrained/00000", "retrained/00001", "finetune/00000", "finetune/00001", "kookmin/00000", "retrained/00002",
    ]  # fmt: skip
    batching, queue = Batching(plan.pack_of), deque(order[1:])
    taken = []
    while queue:
        taken.append([str(run) for run in batching.take(queue, at_most=1, alone=set())])
    assert [len(each) for each in taken] == [2, 2, 1, 1]
    suspect = Run(population="retrained", index=1)
    queue.extend(order[1:3])
    assert batching.take(queue, at_most=8, alone={suspect}) == [order[1]]


def test_methods_that_pack_are_plain(data: RunData) -> None:
    """Law: a method that says that it can be packed joins its pack once, and `fit` is the last thing that it does."""
    for method in (each for each in METHODS.own.values() if each.packs):
        pack, model = Pack(2), net(0)
        options = method.options(epochs=1.0, **{"on": "retain"} if method.name == "train" else {})
        method.run(model, replace(data, slot=Slot(pack, 0)), options, rng(0))
        assert model.training
        before = copy.deepcopy(model.state_dict())
        assert pack.train() == {}
        assert not same_weights(before, model.state_dict())
