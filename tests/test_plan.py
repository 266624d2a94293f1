"""A study -> populations with digests and runs: what changes a digest, what does not, and what cannot be planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ray_unlearn.errors import StudyError
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.study import Ingredients, Plan, Run, Shard, Study, make_plan

Make = Callable[..., Study]

DATA = {"images": {"train": "1f"}, "splits": "2a", "image_size": 8}
MODEL = {"arch": "small_cnn", "options": {"width": 4}}


def planned(study: Study, data: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> Plan:
    """Plan a study with hand-made identities of its data and model."""
    methods = {name: resolve(study, name) for name in study.populations}
    return make_plan(study, Ingredients(data=DATA | (data or {}), model=MODEL | (model or {}), methods=methods))


def digests(plan: Plan) -> dict[str, str]:
    """Return the digest of each population."""
    return {name: population.digest for name, population in plan.populations.items()}


THREE = {"retrained": {"method": "train", "on": "retain", "count": 2}}
ALL = {"original", "retrained", "finetune"}


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"seed": 1}, ALL),
        ({"checkpoint_dtype": "bf16"}, ALL),
        ({"outputs": {"splits": ["test"]}}, ALL),
        ({"outputs": {"retain_sample": 10}}, ALL),
        ({"training": {"batch_size": 16}}, ALL),
        ({"training": {"lr": 0.01}}, ALL),  # finetune's own rate stays, but its original is another
        ({"populations": {"original": {"epochs": 2}}}, {"original", "finetune"}),
        ({"populations": {"original": {"on": "retain"}}}, {"original", "finetune"}),
        ({"populations": {"finetune": {"lr": 0.5}}}, {"finetune"}),
        ({"populations": {"finetune": {"noise_std": 0.02}}}, {"finetune"}),
        ({"populations": {"finetune": {"method": "negative_gradient_plus", "noise_std": None}}}, {"finetune"}),
        ({"populations": {"retrained": {"weight_decay": 0.5}}}, {"retrained"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_what_changes_results_changes_the_digest(tiny: Make, changes: dict[str, Any], changed: set[str]) -> None:
    """Of exactly those populations whose results it changes, through the original too."""
    before = digests(planned(tiny(**{"populations": THREE})))
    after = digests(planned(tiny(**_with(changes))))
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    "what", [{"data": {"splits": "2b"}}, {"data": {"images": {"train": "20"}}}, {"model": {"arch": "x"}}]
)
def test_data_and_model_change_every_digest(tiny: Make, what: dict[str, Any]) -> None:
    """No matter what the data's and the model's rooms state identifies them is covered, known key or not."""
    study = tiny(populations=THREE)
    before, after = digests(planned(study)), digests(planned(study, **what))
    assert {name for name in before if before[name] != after[name]} == ALL


def test_the_number_of_originals_that_runs_start_from_changes_the_digest(tiny: Make) -> None:
    """Run 1 starts from original 1 instead of 0."""
    two = {**THREE, "original": {"count": 2}}
    before = digests(planned(tiny(populations=two)))
    after = digests(planned(tiny(populations={**two, "finetune": {"originals": 2}})))
    assert {name for name in before if before[name] != after[name]} == {"finetune"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"storage": "/elsewhere"},
        {"stages": {"metrics": True, "outputs": [1], "checkpoints": [1]}},
        {"keep_checkpoints": False},
        {"populations": {"finetune": {"keep_checkpoints": False}}},
        {"populations": {"finetune": {"count": 512}}},
        {"populations": {"original": {"count": 4}}},
        {"populations": {"another": {"method": "finetune", "count": 9}}},
        {"execution": {"workers": 7, "device": "cuda", "gpus_per_worker": 0.5, "max_attempts": 9}},
        {"execution": {"cpus_per_worker": 2, "deterministic": False, "device_budget_gib": 1}},
        {"evaluation": {"reference": "retrained"}},
    ],
    ids=str,
)
def test_what_changes_no_result_changes_no_digest(tiny: Make, changes: dict[str, Any]) -> None:
    """How many there are, what else is in the study, where and how fast it runs: the same store goes on."""
    before = digests(planned(tiny(**{"populations": THREE})))
    after = digests(planned(tiny(**_with(changes))))
    assert {name: after[name] for name in before} == before


def test_an_option_written_out_at_its_default_is_the_same_population(tiny: Make) -> None:
    """Digests cover values, not how the file spells them."""
    spelled = {"finetune": {"epochs": 1, "lr": 1e-3, "batch_size": 32}}
    assert digests(planned(tiny(populations=spelled))) == digests(planned(tiny()))


def test_training_reaches_unlearning_only_through_what_it_inherits(tiny: Make, tmp_path: Any) -> None:
    """With a given original, the study's rate does not touch fine-tuning; its batch size does."""
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"any bytes; the plan only hashes them")
    given = {"original": {"method": None, "on": None, "weights": str(weights)}}

    def finetune(**training: Any) -> str:
        return planned(tiny(populations=given, training=training)).populations["finetune"].digest

    assert finetune() == finetune(lr=0.5, epochs=9, optimizer="sgd", weight_decay=0.1)
    assert finetune() != finetune(batch_size=16)
    assert finetune() != finetune(precision="bf16")


def test_weights_identify_by_content_not_by_name(tiny: Make, tmp_path: Any) -> None:
    """The same bytes under another name are the same original; other bytes are another."""
    one, same, other = (tmp_path / name for name in ("one.pth", "same.pth", "other.pth"))
    one.write_bytes(b"weights")
    same.write_bytes(b"weights")
    other.write_bytes(b"other weights")

    def plan(path: Any) -> dict[str, str]:
        original = {"method": None, "on": None, "weights": str(path)}
        return digests(planned(tiny(populations={"original": original})))

    assert plan(one) == plan(same)
    assert all(plan(one)[name] != plan(other)[name] for name in ("original", "finetune"))


def test_two_populations_of_equal_options_differ(tiny: Make) -> None:
    """The name is part of the streams' key, so it is part of the identity."""
    plan = planned(tiny(populations={"again": {"method": "finetune", "noise_std": 0.01}}))
    assert plan.populations["again"].digest != plan.populations["finetune"].digest


def test_an_identity_holds_no_path_of_this_machine(tiny: Make, tmp_path: Any) -> None:
    """The digest must be the same on every machine."""
    script = tmp_path / "mine.py"
    script.write_text("def unlearning(net, retain_loader, forget_loader, val_loader):\n    pass\n")
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"weights")
    populations = {
        "original": {"method": None, "on": None, "weights": str(weights)},
        "mine": {"method": f"{script}:unlearning"},
    }
    plan = planned(tiny(populations=populations))
    for population in plan.populations.values():
        assert str(tmp_path) not in str(dict(population.identity))


def test_run_i_starts_from_original_i_modulo_originals(tiny: Make) -> None:
    """Five runs over two originals: 0 1 0 1 0; runs from scratch start from none."""
    populations = {"original": {"count": 3}, "finetune": {"count": 5, "originals": 2}}
    plan = planned(tiny(populations=populations))
    runs = plan.populations["finetune"].runs
    assert [run.original for run in runs] == [0, 1, 0, 1, 0]
    assert [str(run) for run in runs] == [f"finetune/{i:05d}" for i in range(5)]
    assert [plan.start_of(run) for run in runs[:2]] == [Run(population="original", index=i) for i in (0, 1)]
    assert all(plan.start_of(run) is None for run in plan.populations["original"].runs)


def test_a_run_comes_after_the_original_that_it_starts_from(tiny: Make) -> None:
    """Also where the file names the original last; no run is planned twice."""
    study = tiny(populations={"original": None, **THREE})
    spec = tiny().populations["original"]
    last = study.model_copy(update={"populations": {**study.populations, "original": spec}})
    runs = planned(last).runs
    assert list(last.populations)[-1] == "original"
    assert [str(run) for run in runs] == [
        "original/00000",
        *(f"finetune/{i:05d}" for i in range(3)),
        *(f"retrained/{i:05d}" for i in range(2)),
    ]


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (["finetune"], {"original": 2, "finetune": 5}),
        (["retrained"], {"retrained": 2}),
        (["original"], {"original": 4}),
        (["one"], {"original": 1, "one": 1}),
        (["one", "finetune"], {"original": 2, "finetune": 5, "one": 1}),
        (["finetune", "original"], {"original": 4, "finetune": 5}),
        ([], {"original": 4, "finetune": 5, "retrained": 2, "one": 1}),
    ],
    ids=str,
)
def test_only_takes_exactly_the_originals_that_are_needed(tiny: Make, names: list[str], counts: dict[str, int]) -> None:
    """Of four originals: two for `originals: 2`, one for a single run of `originals: 3`, none from scratch."""
    populations = {
        **THREE,
        "original": {"count": 4},
        "finetune": {"count": 5, "originals": 2},
        "one": {"method": "finetune", "count": 1, "originals": 3},
    }
    whole = planned(tiny(populations=populations))
    plan = whole.only(names)
    assert {name: len(population.runs) for name, population in plan.populations.items()} == counts
    assert {name: digests(whole)[name] for name in plan.populations} == digests(plan)
    assert set(plan.runs) <= set(whole.runs)
    assert all(plan.start_of(run) in (None, *plan.runs) for run in plan.runs)


def _refusal(study: Study) -> str:
    with pytest.raises(StudyError) as caught:
        planned(study)
    return str(caught.value)


def test_only_refuses_an_unknown_name(tiny: Make) -> None:
    """With the nearest population's."""
    with pytest.raises(StudyError) as caught:
        planned(tiny()).only(["finetun"])
    assert str(caught.value) == "--only finetun: not a population of the study (did you mean 'finetune'?)"


def test_unlearning_without_an_original_is_refused_with_both_remedies(tiny: Make) -> None:
    """What starts from an original needs a population of that name."""
    assert _refusal(tiny(populations={"original": None})) == (
        "populations.finetune: finetune starts from a population called `original`, which is not defined; "
        "add `original: {method: train, on: train, count: 1}` or `original: {weights: FILE}`"
    )


def test_more_originals_than_there_are_is_refused(tiny: Make) -> None:
    """Both numbers are named."""
    assert _refusal(tiny(populations={"original": {"count": 2}, "finetune": {"originals": 3}})) == (
        "populations.finetune.originals: expected at most 2, as the study has; found 3"
    )


def test_originals_for_training_from_scratch_is_refused(tiny: Make) -> None:
    """An option that would do nothing is an error."""
    retrained = {"method": "train", "on": "retain", "originals": 2}
    assert _refusal(tiny(populations={"retrained": retrained})) == (
        "populations.retrained.originals: train trains from scratch and starts from no original"
    )


def test_an_original_that_needs_an_original_is_refused(tiny: Make) -> None:
    """The chain has to start somewhere."""
    assert _refusal(tiny(populations={"original": {"method": "finetune", "on": None}})) == (
        "populations.original.method: finetune needs an original to start from; use train, or weights: FILE"
    )


def test_originals_are_always_kept(tiny: Make) -> None:
    """The study's `keep_checkpoints: false` spares them; their own is refused."""
    plan = planned(tiny(keep_checkpoints=False, populations={"finetune": {}, "kept": _finetune(keep_checkpoints=True)}))
    kept = {name: population.keep_checkpoints for name, population in plan.populations.items()}
    assert kept == {"original": True, "finetune": False, "kept": True}
    assert _refusal(tiny(populations={"original": {"keep_checkpoints": False}})) == (
        "populations.original.keep_checkpoints: originals are always kept, because others start from them"
    )


def _finetune(**more: Any) -> dict[str, Any]:
    return {"method": "finetune", **more}


def _with(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the changes on top of a study that has a retrained population, too."""
    populations = {name: {**THREE.get(name, {}), **spec} for name, spec in changes.get("populations", {}).items()}
    return {**changes, "populations": {**THREE, **populations}}


def test_an_evaluation_without_its_outputs_is_warned_of(tiny: Make):
    """Law: a study that asks for scores and saves no retain outputs is reported before hours of work, not after."""
    evaluated = {"populations": THREE, "evaluation": {"reference": "retrained"}}
    (warning,) = planned(tiny(**evaluated, outputs={"splits": ["forget", "test"]})).warnings
    assert warning.startswith("outputs.splits: without retain the evaluation has no score")
    assert planned(tiny(**evaluated, outputs={"splits": ["forget", "test", "retain"]})).warnings == []
    assert planned(tiny(populations=THREE)).warnings == []


@pytest.mark.parametrize("parts", [1, 2, 3, 100])
def test_shards_divide_the_runs_and_share_originals(tiny: Make, parts: int) -> None:
    """Every run is in one part, equally many in each; an original is in each part that needs it."""
    populations = {"original": {"count": 2}, "finetune": {"count": 7, "originals": 2}, **THREE}
    plan = planned(tiny(populations=populations))
    shards = [Shard(number + 1, parts).of(plan) for number in range(parts)]
    own = [[run for run in shard if run.population != "original"] for shard in shards]
    assert sorted(run for part in own for run in part) == sorted(
        run for run in plan.runs if run.population != "original"
    )
    assert max(map(len, own)) - min(map(len, own)) <= 1
    for shard in shards:
        assert {plan.start_of(run) for run in shard} - {None} == {run for run in shard if run.population == "original"}


def test_shards_of_originals_alone_divide_them(tiny: Make) -> None:
    """`--only original --shard 1/2`: nothing starts from them yet."""
    plan = planned(tiny(populations={"original": {"count": 3}})).only(["original"])
    assert [len(Shard(number, 2).of(plan)) for number in (1, 2)] == [2, 1]
