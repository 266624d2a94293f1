"""Shadow populations: every run is trained on its own half of the train split, and every reader knows which."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pyarrow.compute as pc
import pytest
import yaml
from conftest import TINY, merged, payload_bytes

from ray_unlearn.errors import StoreError, StudyError
from ray_unlearn.generation import generate
from ray_unlearn.generation.checks import Checks
from ray_unlearn.generation.estimates import Step, estimate
from ray_unlearn.generation.job import open_job
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import StudyStore
from ray_unlearn.store.agreement import disagreements
from ray_unlearn.store.arrow import read_table
from ray_unlearn.store.membership import fingerprint, half_of_train, members_of, membership_matrix, split_sizes
from ray_unlearn.store.records import Record
from ray_unlearn.store.verify import verify
from ray_unlearn.study import Run, Study, parse_study
from ray_unlearn.study.plan import Shard

HALF = {"method": "train", "on": {"half_of": "train", "balanced": True}}
SIZES = {"retain": 31, "forget": 8}
MakeStudy = Callable[..., Study]


def shadow_study(make: MakeStudy, count: int = 4, **changes: Any) -> Study:
    """Return a study of shadows alone."""
    return make(populations={"original": None, "finetune": None, "shadows": HALF | {"count": count}}, **changes)


# The halves


def test_every_image_is_in_one_half_of_each_pair():
    """Law: runs 2k and 2k+1 share no image and lack none; forget images are halved as evenly as retain images."""
    for pair in range(20):
        even, odd = (half_of_train(3, "shadows", 2 * pair + side, SIZES) for side in (0, 1))
        for split, size in SIZES.items():
            assert np.array_equal(even[split], ~odd[split])
            assert even[split].sum() == size // 2


def test_halves_are_drawn_anew_for_pairs_populations_and_seeds():
    """Law: pairs are independent: over many of them, two images are together as often as chance has it."""
    halves = np.stack([half_of_train(0, "shadows", 2 * pair, SIZES)["retain"] for pair in range(2000)])
    assert np.abs(halves.mean(0) - 15 / 31).max() < 0.06  # five standard errors
    together = (halves[:, :1] == halves[:, 1:]).mean(0)
    assert np.abs(together - (15 * 14 + 16 * 15) / (31 * 30)).max() < 0.06
    first = fingerprint(half_of_train(0, "shadows", 0, SIZES))
    assert first != fingerprint(half_of_train(1, "shadows", 0, SIZES))
    assert first != fingerprint(half_of_train(0, "others", 0, SIZES))


def test_a_half_is_the_one_that_it_always_was():
    """Law: a half is a function of seed, name, pair and sizes that no later version may change."""
    half = half_of_train(0, "shadows", 0, {"retain": 12, "forget": 3})
    assert half["retain"].astype(int).tolist() == RETAIN
    assert half["forget"].astype(int).tolist() == FORGET
    assert fingerprint(half) == PRINT


RETAIN = [0, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0]
FORGET = [1, 0, 0]
PRINT = "0f9cf101261f4039533c73f13a42b04d8385c31b4c0fbd80a0e892d107e83da6"


# Runs


def test_a_shadow_is_trained_on_its_half_alone(tiny: MakeStudy, monkeypatch: pytest.MonkeyPatch):
    """Law: the images that reach the model are those of the half, each once per epoch; runs 0 and 1 share none."""
    from ray_unlearn.run.worker import Worker

    study = shadow_study(tiny)
    job = open_job(study)
    worker = Worker(job, device="cpu")
    worker.open()
    seen: dict[int, set[int]] = {}
    data_of = Worker._run_data

    def watched(self: Worker, writer: Any, half: Any) -> Any:
        data = data_of(self, writer, half)
        seen[writer.run.index] = set(data.train.indices.tolist())
        assert set(data.retain.indices) | set(data.forget.indices) == seen[writer.run.index]
        return data

    monkeypatch.setattr(Worker, "_run_data", watched)
    outcomes = worker.work([(Run(population="shadows", index=i), 1) for i in range(4)], flush=True)
    worker.close()
    assert [one.error for one in outcomes] == [""] * 4
    assert seen[0] | seen[1] == seen[2] | seen[3] == set(job.data.splits.train.tolist())
    assert not seen[0] & seen[1]
    assert not seen[2] & seen[3]
    assert seen[0] != seen[2]
    trained = {one.run.index: one.spent.images for one in outcomes if one.spent}
    assert trained == {index: len(images) for index, images in seen.items()}


def test_records_name_the_half_and_readers_find_it(tiny: MakeStudy):
    """Law: every record has the fingerprint of its own half, and a half that differs is refused."""
    study = shadow_study(tiny)
    assert generate(study, backend="inline").exit_code == 0
    store = StudyStore.of(study)
    records, held = store.made("shadows"), store.held("shadows") or {}
    sizes = split_sizes(store, held["identity"]["data"]["splits"])
    found = [members_of(records[index], "shadows", sizes) for index in range(4)]
    assert [fingerprint(one) for one in found] == [records[index].membership for index in range(4)]
    keep_RN = membership_matrix(store, "shadows")
    assert np.array_equal(keep_RN, [np.concatenate([one["retain"], one["forget"]]) for one in found])
    assert (keep_RN.sum(0) == 2).all()
    with pytest.raises(StoreError, match="population nobody has no finished run"):
        membership_matrix(store, "nobody")
    assert len({one.membership for one in records.values()}) == 4
    assert held["identity"]["options"]["on"] == {"half_of": "train", "balanced": True}
    other = records[0].model_copy(update={"index": 1})
    with pytest.raises(StoreError, match="shadows/00001: its record names another half of the train split"):
        members_of(other, "shadows", sizes)


def test_verify_compares_halves(tiny: MakeStudy):
    """Law: a record whose fingerprint is another half's is a problem; `--repair` would make the run anew."""
    study = shadow_study(tiny)
    generate(study, backend="inline")
    store = StudyStore.of(study)
    assert verify(store, ["shadows"]).problems == ()
    record = store.record(Run(population="shadows", index=2))
    assert isinstance(record, Record)
    forged = record.model_copy(update={"membership": "0" * 64}).sealed().model_dump_json(indent=1).encode()
    store.storage.publish_file(store.layout.record(Run(population="shadows", index=2)), forged)
    (problem,) = verify(store, ["shadows"]).problems
    assert "shadows/00002/record.json: its record names another half of the train split (000000000000)" in str(problem)


def test_a_run_on_whole_splits_has_no_half(tiny: MakeStudy):
    """Law: records of other populations have no fingerprint."""
    study = tiny()
    generate(study, backend="inline")
    store = StudyStore.of(study)
    assert {one.membership for name in ("original", "finetune") for one in store.made(name).values()} == {""}


# Growth and crashes


def test_more_shadows_move_none(tiny: MakeStudy):
    """Law: raising the count makes the new runs alone; earlier ones keep their bytes."""
    study = shadow_study(tiny)
    generate(study, backend="inline")
    folder = Path(study.storage) / study.name
    before = payload_bytes(folder)
    summary = generate(shadow_study(tiny, count=6), backend="inline")
    assert (summary.already, summary.made) == (4, 2)
    after = payload_bytes(folder)
    assert {name: after[name] for name in before} == before


def test_a_killed_driver_changes_no_half(tmp_path: Path):
    """Law: SIGKILL in the middle, then the same command: the same bytes and halves as without."""
    tree = merged(TINY, {"populations": {"original": None, "finetune": None, "shadows": HALF | {"count": 12}}})
    tree["training"] = tree["training"] | {"epochs": 3}
    for name in ("killed", "whole"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree | {"storage": str(tmp_path / name)}))
    process = forks.start(["generate", str(tmp_path / "killed.yaml"), "--backend", "inline"], Path(os.devnull))
    folder = tmp_path / "killed" / "tiny" / "shadows"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/record.json"))) < 2 and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    made = len(list(folder.glob("*/record.json")))
    assert 2 <= made < 12
    found = []
    for name in ("killed", "whole"):
        study = parse_study(tree | {"storage": str(tmp_path / name)}, "a test")
        assert generate(study, backend="inline").exit_code == 0
        found.append({index: one.membership for index, one in StudyStore.of(study).made("shadows").items()})
    assert payload_bytes(tmp_path / "killed" / "tiny") == payload_bytes(tmp_path / "whole" / "tiny")
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 12


# Unlearning that starts from shadows


def from_shadows(make: MakeStudy, count: int = 4, shadows: int = 4, **changes: Any) -> Study:
    """Return a study of shadows, and of models that unlearn from them."""
    forgetful = {"method": "finetune", "starts_from": "shadows", "count": count}
    populations = {"original": None, "finetune": None, "shadows": HALF | {"count": shadows}, "forgetful": forgetful}
    return make(populations=populations, **changes)


def test_run_i_starts_from_shadow_i_and_sees_its_half(tiny: MakeStudy, monkeypatch: pytest.MonkeyPatch):
    """Law: its checkpoint, its retain and forget images, and no other's; outputs are of all images."""
    from ray_unlearn.run.worker import Worker

    seen: dict[str, dict[str, set[int]]] = {}
    data_of = Worker._run_data

    def watched(self: Worker, writer: Any, half: Any) -> Any:
        data = data_of(self, writer, half)
        seen[str(writer.run)] = {name: set(getattr(data, name).indices.tolist()) for name in ("retain", "forget")}
        return data

    monkeypatch.setattr(Worker, "_run_data", watched)
    study = from_shadows(tiny)
    assert generate(study, backend="inline").exit_code == 0
    store, job = StudyStore.of(study), open_job(study)
    shadows, made = store.made("shadows"), store.made("forgetful")
    for index in range(4):
        assert made[index].original == index
        assert made[index].original_sha256 == shadows[index].payloads["model.safetensors"].sha256
        assert made[index].membership == shadows[index].membership
        half = half_of_train(0, "shadows", index, job.data.splits.sizes())
        expected = {name: set(job.data.splits.sets[name][mine_N].tolist()) for name, mine_N in half.items()}
        assert seen[f"forgetful/{index:05d}"] == seen[f"shadows/{index:05d}"] == expected
    assert verify(store, ["shadows", "forgetful"]).problems == ()
    forged = shadows[1].model_copy(update={"payloads": shadows[0].payloads}).sealed()
    run = Run(population="shadows", index=1)
    store.storage.publish_file(store.layout.record(run), forged.model_dump_json(indent=1).encode())
    said = [str(problem) for problem in verify(store, ["forgetful"]).problems]
    assert len(said) == 1
    assert said[0].startswith("forgetful/00001/record.json: started from shadows/00001 when it was sha256")


def test_a_worker_holds_one_shadow_at_a_time(tiny: MakeStudy):
    """Law: a worker's memory does not grow with the shadows that its runs start from."""
    from ray_unlearn.run.worker import Worker

    study = from_shadows(tiny)
    generate(study, backend="inline", only=["shadows"])
    worker = Worker(open_job(study), device="cpu")
    worker.open()
    for index in range(4):
        run = Run(population="forgetful", index=index, original=index)
        assert [one.error for one in worker.work([(run, 1)], flush=True)] == [""]
        assert list(worker._starts.read) == [Run(population="shadows", index=index)]
    worker.close()


def test_both_grow_together(tiny: MakeStudy):
    """Law: more shadows, and more runs that start from them, leave earlier ones as they are."""
    generate(from_shadows(tiny, 2, 2), backend="inline")
    folder = Path(tiny().storage) / "tiny"
    before = payload_bytes(folder)
    summary = generate(from_shadows(tiny, 4, 6), backend="inline")
    assert (summary.already, summary.made) == (4, 6)
    after = payload_bytes(folder)
    assert {name: after[name] for name in before} == before


def test_a_population_from_shadows_that_was_left_out_agrees(tiny: MakeStudy):
    """Law: a study generated without it does not make it look changed; another start does."""
    others = {"finetune": None, "shadows": HALF | {"count": 2}, "more": HALF | {"count": 2}}
    forgetful = {"method": "finetune", "starts_from": "shadows", "count": 2}
    study = tiny(populations=others | {"forgetful": forgetful})
    generate(study, backend="inline")
    generate(tiny(populations=others), backend="inline")
    assert disagreements(study, StudyStore.of(study)) == []
    moved = tiny(populations=others | {"forgetful": forgetful | {"starts_from": "more"}})
    assert disagreements(moved, StudyStore.of(study)) == ['population forgetful: starts_from: "shadows" -> "more"']


def test_parts_of_a_job_array_have_the_shadows_that_they_need(tiny: MakeStudy):
    """Law: parts together are all runs; each has the shadow that a run of it starts from, before it and once."""
    plan = open_job(from_shadows(tiny, 4, 6)).plan
    parts = [Shard(number, 3).of(plan) for number in (1, 2, 3)]
    assert {run for part in parts for run in part} == set(plan.runs)
    for part in parts:
        assert len(set(part)) == len(part)
        for place, run in enumerate(part):
            start = plan.start_of(run)
            assert start is None or start in part[:place]


def test_a_plan_of_shadows_has_no_problem_and_halves_their_images(tiny: MakeStudy):
    """Law: what `plan` checks and expects: shadows count for half of train, their unlearning for half of retain."""
    study = from_shadows(tiny)
    checks = Checks(study)
    checks.before_torch()
    checks.with_torch()
    assert checks.problems == {}
    assert checks.plan
    assert set(checks.plan.populations) == {"shadows", "forgetful"}
    step = Step(train_s=1.0, predict_s=0.0, parameters=1)
    found = estimate(study, {}, {"train": 90, "retain": 80, "forget": 10}, step)
    assert (found["shadows"].seconds, found["forgetful"].seconds) == (45.0, 40.0)
    assert found["forgetful"].relative is None


def test_only_makes_the_shadows_that_are_needed(tiny: MakeStudy):
    """Law: `--only` a population makes exactly the runs that it starts from."""
    plan = open_job(from_shadows(tiny, 2, 6)).plan.only(["forgetful"])
    assert [str(run) for run in plan.runs] == ["shadows/00000", "shadows/00001", "forgetful/00000", "forgetful/00001"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 6}, "forgetful.count: expected at most 4, as shadows has"),
        ({"starts_from": "nobody"}, "forgetful.starts_from: expected a population of shadows, .* found 'nobody'"),
        ({"starts_from": "retrained"}, "forgetful.starts_from: expected a population of shadows"),
        ({"starts_from": "original"}, "forgetful.starts_from: expected a population of shadows"),
        ({"method": "train", "on": "retain"}, "forgetful.starts_from: train trains from scratch"),
        ({"originals": 2}, "originals: run i starts from run i of starts_from"),
    ],
)
def test_a_start_that_is_no_shadow_is_refused(tiny: MakeStudy, changes: dict[str, Any], said: str):
    """Law: the message names the key, and what it may be."""
    forgetful = {"method": "finetune", "starts_from": "shadows", "count": 4} | changes
    others = {"finetune": None, "retrained": {"method": "train", "on": "retain"}, "shadows": HALF | {"count": 4}}
    with pytest.raises(StudyError, match=said):
        open_job(tiny(populations=others | {"forgetful": forgetful}))


LOOKS = """\
def unlearning(net, retain_loader, forget_loader, val_loader):
    from ray_unlearn.run import child
    print([sorted(loader.dataset._images.indices.tolist()) for loader in (retain_loader, forget_loader)])
    print(len(child._opened[0].originals))
    net[-1].bias.data += 1
"""


def test_a_script_that_starts_from_shadows_gets_its_half(tiny: MakeStudy, tmp_path: Path):
    """Law: its loaders have the images of the shadow that it starts from; one shadow at a time is held."""
    (tmp_path / "looks.py").write_text(LOOKS)
    mine = {"method": f"{tmp_path}/looks.py:unlearning", "starts_from": "shadows", "count": 4}
    study = tiny(populations={"finetune": None, "shadows": HALF | {"count": 4}, "mine": mine})
    assert generate(study, backend="inline").failed == {}
    job = open_job(study)
    sets, store = job.data.splits.sets, StudyStore.of(study)
    for index in range(4):
        half = half_of_train(study.seed, "shadows", index, job.data.splits.sizes())
        expected = [sorted(sets[name][half[name]].tolist()) for name in ("retain", "forget")]
        log = store.payload(Run(population="mine", index=index), "log.txt").decode()
        assert log.splitlines() == [str(expected), "1"]
        assert store.made("mine")[index].membership == store.made("shadows")[index].membership


def test_an_original_on_a_half_starts_no_unlearning(tiny: MakeStudy):
    """Law: an original that saw half of the forget images is attacked, not unlearned."""
    with pytest.raises(StudyError, match=r"populations.finetune: `original` is trained on a half of the images"):
        open_job(tiny(populations={"original": HALF}))


def test_shadows_that_others_start_from_are_kept(tiny: MakeStudy):
    """Law: their checkpoints are kept although the study keeps none; a wish to drop them is refused."""
    plan = open_job(from_shadows(tiny, keep_checkpoints=False)).plan
    assert plan.populations["shadows"].keep_checkpoints
    assert not plan.populations["forgetful"].keep_checkpoints
    dropped = HALF | {"count": 4, "keep_checkpoints": False}
    forgetful = {"method": "finetune", "starts_from": "shadows", "count": 4}
    study = tiny(populations={"finetune": None, "shadows": dropped, "forgetful": forgetful})
    with pytest.raises(StudyError, match=r"shadows.keep_checkpoints: forgetful starts from these runs"):
        open_job(study)


def test_one_forget_image_cannot_be_halved(tiny: MakeStudy):
    """Law: a study in which every other run would have nothing to forget is refused."""
    (one,) = open_job(tiny()).data.arrows.values()
    ids = read_table(one).filter(pc.field("split") == "forget").column("image_id").to_pylist()
    with pytest.raises(StudyError, match=r"forgetful.starts_from: .* expected 2 or more; found 1"):
        open_job(from_shadows(tiny, data={"forget": {"fraction": None, "ids": ids[:1]}}))


# What is refused


def test_an_odd_number_of_shadows_is_pointed_out(tiny: MakeStudy):
    """Law: a run without a partner is named in a warning, not refused: it may get one."""
    (warning,) = (line for line in open_job(shadow_study(tiny, count=3)).plan.warnings if "odd" in line)
    assert warning.startswith("population shadows: 3 is odd, so its last run has no partner")
    assert not [line for line in open_job(shadow_study(tiny)).plan.warnings if "odd" in line]


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ({"half_of": "retain"}, r"populations.shadows.on.half_of: input should be 'train'; found 'retain'"),
        (
            {"half_of": "train", "balanced": False},
            r"populations.shadows.on.balanced: input should be True; found False",
        ),
        ({"half_of": "train", "share": 0.5}, r"populations.shadows.on.share: unknown key"),
        ("half", r"populations.shadows.on: .*'half'"),
    ],
)
def test_another_half_is_refused(tiny: MakeStudy, on: Any, said: str):
    """Law: the message names the key."""
    study = tiny(populations={"original": None, "finetune": None, "shadows": {"method": "train", "on": on}})
    with pytest.raises(StudyError, match=said):
        open_job(study)


def test_seeds_of_a_half_belong_to_nothing_else():
    """Law: the stream of a half is not that of any run's training."""
    seeds = Seeds(study=0, population="shadows", run=0)
    assert seeds.entropy("half-of-retain") not in {seeds.entropy(p) for p in ("fit-train", "method", "init")}
