"""A store's outputs -> the scores of a study: who is compared with whom, at which N, and what is computed again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluated import SIZES, draw_logits, evaluated_store, leave_fits_out, publish, publish_splits, study_of

from ray_unlearn.errors import EvaluationError, StoreError, StudyError
from ray_unlearn.evaluation import forgetting_quality
from ray_unlearn.evaluation.cache import Task, in_this_process
from ray_unlearn.evaluation.evaluate import evaluate, read_scores
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.evaluation.scores import FORMAT, OLDER, Estimate, Scores
from ray_unlearn.report.publish import render
from ray_unlearn.report.verdict import verdict

COUNTS = {"retrained": 16, "again": 12, "shifted": 12}
TOO_FEW = {f"{attack}_tpr_{rate}" for attack in ("rmia", "logistic_attack", "svc_efficacy") for rate in ("0.1", "1")}
TOO_FEW |= {"u_lira_tpr_0.1"}
"""True positive rates at rates that 20 test images, and 12 models on 12 forget images, cannot resolve."""


class Counting:
    """Computes in this process, and remembers what."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def __call__(self, tasks: Sequence[Task]) -> Iterable[tuple[Task, str]]:
        self.parts += [task.part for task in tasks]
        return in_this_process(tasks)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    """Twelve runs drawn like retrained ones, and twelve that are not, against sixteen."""
    folder = tmp_path_factory.mktemp("store")
    study, store = evaluated_store(folder, COUNTS)
    return folder, evaluate(study, store)


def test_a_measure_has_its_n_its_interval_and_its_null(scored: tuple[Path, Scores]):
    """Law: no number alone; the null and the value next to it have the same N, half of the reference's 16 runs."""
    for name in ("again", "shifted"):
        measures = scored[1].populations[name].measures
        assert measures.keys() == {name for name, one in MEASURES.items() if not one.of_shadows}
        for measure, found in measures.items():
            if "validation" in measure:
                assert found.value is None
                assert found.missing == "needs validation images, and the study has no validation set"
                continue
            if measure in TOO_FEW:
                assert found.value is None
                assert re.fullmatch(
                    r"needs (1,000|100) or more .* that the attack did not use otherwise", found.missing
                )
                continue
            if measure == "u_lira_tpr_1":  # 144 negatives are enough; the 96 of the null are not
                assert (found.n, found.null, found.at_null_n) == (12, None, None)
                continue
            assert (found.n, found.null_n) == (12, 8), measure
            assert found.low <= found.value <= found.high, measure
            assert found.null_low <= found.null <= found.null_high, measure
            assert found.at_null_n is not None


def test_the_official_number_is_of_the_first_n_of_both(scored: tuple[Path, Scores]):
    """Law: unequal populations are compared at the smaller N, by run index; the score is F times two ratios."""
    folder, scores = scored
    _, store = evaluated_store(folder, COUNTS)
    theirs = read_outputs(store, "retrained", {i: r for i, r in store.made("retrained").items() if i < 12})
    ours = read_outputs(store, "shifted", store.made("shifted"))
    quality = forgetting_quality(ours.splits["forget"].phi_RN, theirs.splits["forget"].phi_RN)
    measures = scores.populations["shifted"].measures
    assert measures["forgetting_quality"].value == quality.score
    ratios = [
        ours.splits[split].correct_RN.mean(1).mean() / theirs.splits[split].correct_RN.mean(1).mean()
        for split in ("retain", "test")
    ]
    assert measures["score"].value == pytest.approx(quality.score * ratios[0] * ratios[1], rel=1e-12)
    assert scores.populations["shifted"].epsilon_counts[-1] == (quality.epsilon_E >= 3.0).sum()  # B = 2 ceil(log 11)
    assert sum(scores.populations["shifted"].epsilon_counts) == 12


def test_who_never_saw_the_images_scores_as_the_null_does(scored: tuple[Path, Scores]):
    """Law: runs drawn like the reference are within its null; runs four standard deviations off are not."""
    again, shifted = (scored[1].populations[name].measures for name in ("again", "shifted"))
    for measure in ("forgetting_quality", "u_lira_auc", "mean_shift"):
        assert again[measure].null_low <= again[measure].at_null_n <= again[measure].null_high, measure
        assert not shifted[measure].null_low <= shifted[measure].at_null_n <= shifted[measure].null_high, measure
    assert shifted["u_lira_auc"].value > 0.95
    assert again["forgetting_quality"].null == shifted["forgetting_quality"].null


def test_roles_cost_and_slices(scored: tuple[Path, Scores]):
    """Law: the reference and the original are described, not scored; cost is relative to retraining."""
    populations = scored[1].populations
    assert {name: found.role for name, found in populations.items()} == {
        "original": "original",
        "retrained": "reference",
        "again": "unlearned",
        "shifted": "unlearned",
    }
    assert populations["retrained"].measures == {} == populations["original"].measures
    assert (populations["shifted"].cost.relative, populations["shifted"].cost.efficient) == (0.1, True)
    assert (populations["original"].cost.relative, populations["original"].cost.efficient) == (1.0, False)
    classes = {part.key: part.images for part in populations["shifted"].slices if part.by == "class"}
    assert classes.keys() == {"young", "middle", "old"}
    whole = {part.split: part.images for part in populations["shifted"].slices if part.by == "all"}
    assert whole == {"retain": 30, "forget": 12, "test": 20}


def test_groups_are_sliced_where_images_have_them(tmp_path: Path):
    """Law: accuracy by person, from the splits file."""
    study, store = evaluated_store(tmp_path, {"retrained": 2})
    publish_splits(store, group="person")
    slices = evaluate(study, store).populations["retrained"].slices
    assert {part.key for part in slices if part.by == "group"} == {"person0", "person1"}


def test_what_is_unchanged_is_not_computed_again(tmp_path: Path):
    """Law: a second evaluation computes nothing and states the same; a new run of one population recomputes
    that one.
    """
    study, store = evaluated_store(tmp_path, {"retrained": 8, "again": 8, "shifted": 3})
    first, second, third, fourth = Counting(), Counting(), Counting(), Counting()
    before = evaluate(study, store, execute=first)
    assert sorted(first.parts) == ["again", "null.of.reference", "original", "retrained", "shifted"]
    assert evaluate(study, store, execute=second) == before
    assert second.parts == []
    publish(store, "shifted", 3, draw_logits(99, shift=4.0))
    evaluate(study.model_copy(update=_more(study, "shifted", 4)), store, execute=third)
    # The smallest population decides at which N all are compared.
    assert sorted(third.parts) == ["again", "null.of.reference", "shifted"]
    evaluate(study, store, mode="exact", execute=fourth)
    assert sorted(fourth.parts) == sorted(first.parts)


@pytest.mark.parametrize("damage", ['"text"', "[" * 100_000, "{", "", '{"format": "x"}', '{"format": 99}'])
def test_a_damaged_part_is_computed_anew(tmp_path: Path, damage: str):
    """Law: a part that is no part, or a later version's, costs its computation and nothing else."""
    study, store = evaluated_store(tmp_path, {"retrained": 3, "again": 3})
    before = evaluate(study, store)
    (path,) = (tmp_path).rglob("again.json")
    path.write_text(damage)
    counted = Counting()
    assert evaluate(study, store, execute=counted) == before
    assert counted.parts == ["again"]


def test_a_new_measure_is_computed_for_what_was_scored_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: parts that lack a measure are not taken from the cache."""
    study, store = evaluated_store(tmp_path, {"retrained": 3, "again": 3})
    first, second = Counting(), Counting()
    older = {name: measure for name, measure in MEASURES.items() if name != "mean_shift"}
    with monkeypatch.context() as patch:
        for module in ("cache", "population_scores"):
            patch.setattr(f"ray_unlearn.evaluation.{module}.MEASURES", older)
        assert "mean_shift" not in evaluate(study, store, execute=first).populations["again"].measures
    assert "mean_shift" in evaluate(study, store, execute=second).populations["again"].measures
    assert second.parts == first.parts


def _more(study, name: str, count: int) -> dict:
    populations = dict(study.populations)
    populations[name] = populations[name].model_copy(update={"count": count})
    return {"populations": populations}


def test_a_killed_evaluation_goes_on(tmp_path: Path):
    """Law: each part is kept as soon as it is there."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "again": 8})

    def killed(tasks: Sequence[Task]) -> Iterable[tuple[Task, str]]:
        yield from in_this_process(tasks[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(study, store, execute=killed)
    rest = Counting()
    scores = evaluate(study, store, execute=rest)
    assert len(rest.parts) == 2
    evaluate_again, fresh = evaluated_store(tmp_path / "elsewhere", {"retrained": 8, "again": 8})
    assert evaluate(evaluate_again, fresh).populations == scores.populations


def test_the_scores_are_published_twice(tmp_path: Path):
    """Law: scores.json reads back as what was returned; scores.parquet has one row per population and measure."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "again": 8})
    scores = evaluate(study, store)
    assert read_scores(store) == scores
    table = pd.read_parquet(tmp_path / "tiny" / "scores.parquet")
    assert set(table["population"]) == {"again"}
    assert len(table) == len([one for one in MEASURES.values() if not one.of_shadows])
    row = table.set_index("measure").loc["forgetting_quality"]
    assert row["value"] == scores.populations["again"].measures["forgetting_quality"].value
    assert {"mode", "low", "high", "n", "null", "at_null_n", "null_n"} <= set(table.columns)


def test_doubts_are_reported(tmp_path: Path):
    """Law: identical runs, too few runs, one original only and missing runs are warnings, not silence."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "same": 8})
    study = study.model_copy(update=_more(study, "same", 9))
    scores = evaluate(study, store)
    warnings = " ".join(scores.populations["same"].warnings)
    for said in ("only 1 of 8 runs have different outputs", "hardly differ", "only 8 runs", "start from one original"):
        assert said in warnings
    assert scores.warnings == ("population same: 8 of 9 runs are made",)
    same = scores.populations["same"]
    assert same.guarded == 12
    assert same.measures["forgetting_quality"].value == 0.0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_runs_give_what_they_can(tmp_path: Path, count: int):
    """Law: one run has no distribution, three have no halves; what is missing is missing with a reason."""
    study, store = evaluated_store(tmp_path, {"retrained": 3, "again": count})
    found = evaluate(study, store).populations["again"]
    measures = found.measures
    assert found.warnings[0].startswith(f"only {count} run{'' if count == 1 else 's'}: ")
    quality, lira = measures["forgetting_quality"], measures["u_lira_auc"]
    assert (measures["mean_shift"].value is None) == (count < 2)
    assert (quality.value is None) == (lira.value is None) == (count < 3)
    there = "there is 1" if count == 1 else f"there are {count}"
    assert lira.missing == ("" if count == 3 else f"needs 3 runs a side, and {there}")
    assert quality.low is None
    assert quality.null is None


def test_two_runs_next_to_many_are_scored_without_a_null(tmp_path: Path):
    """Law: a population too small for the null that others have is no error, and drags no one down to its N."""
    study, store = evaluated_store(tmp_path, {"retrained": 12, "again": 12, "shifted": 2})
    found = evaluate(study, store).populations
    assert found["again"].measures["forgetting_quality"].null_n == 6
    two = found["shifted"].measures["forgetting_quality"]
    assert (two.value, two.at_null_n, two.low) == (None, None, None)


def test_two_runs_have_no_score_but_what_two_can_have(tmp_path: Path):
    """Law: F of two is 0 no matter what they are, so there is none, nor images by epsilon; distances and ratios are
    there.
    """
    study, store = evaluated_store(tmp_path, {"retrained": 4, "again": 2})
    found = evaluate(study, store).populations["again"]
    why = "needs 3 runs a side, and there are 2: with fewer than 3, the formula of F counts no image"
    for name in ("forgetting_quality", "score"):
        assert found.measures[name] == Estimate(value=None, n=2, missing=why)
    assert (found.epsilon_counts, found.examples, found.guarded, found.undecided) == ((), (), 0, 0)
    valued = {name for name, one in found.measures.items() if one.value is not None}
    assert valued >= {
        "retain_ratio",
        "test_ratio",
        "tug_of_war",
        "mean_shift",
        "klom_retrained_to_unlearned",
        "rmia_auc",
    }
    assert found.warnings[0] == "only 2 runs: a score takes 3 runs on each side"
    nulls = pd.read_parquet(tmp_path / "tiny" / "scores.parquet").set_index("measure")["value"]
    assert np.isnan(nulls["score"])
    assert not np.isnan(nulls["test_ratio"])


@pytest.mark.parametrize("older", range(1, FORMAT))
def test_an_older_file_is_read_with_a_warning_and_made_anew(tmp_path: Path, older: int):
    """Law: numbers of an older evaluation state that they are; `evaluate` mixes none of its parts with new ones."""
    study, store = evaluated_store(tmp_path, {"retrained": 3, "again": 3})
    scores = evaluate(study, store)
    old = json.loads(scores.model_dump_json()) | {"format": older}
    for population in old["populations"].values():
        for one in population["measures"].values():  # which format 5 brought
            one.pop("at_null_se", None)
            one.pop("at_null_df", None)
    store.storage.publish_file(store.layout.scores_json, json.dumps(old).encode())
    assert read_scores(store).warnings == (*scores.warnings, OLDER)
    assert "computes them anew" in render(store, "markdown")
    assert "computes them anew" in OLDER
    part = store.layout.scores_part("parity", "again")
    content = json.loads(store.storage.read(part)) | {"key": "the digest of an older version"}
    del content["format"]
    store.storage.publish_file(part, json.dumps(content).encode())
    lines: list[str] = []
    assert evaluate(study, store, log=lines.append) == scores
    assert lines[1] == "1 of 4 parts were scored by another version of the evaluation; they are computed again"
    assert read_scores(store) == scores


def test_an_older_file_that_calls_0_what_has_no_score_is_refused(tmp_path: Path):
    """Law: in format 1, populations of two had an F of 0; such a file is not read."""
    study, store = evaluated_store(tmp_path, {"retrained": 3, "again": 3})
    scores = json.loads(evaluate(study, store).model_dump_json()) | {"format": 1}
    scores["populations"]["again"]["measures"]["forgetting_quality"] = {"value": 0.0, "n": 2}
    store.storage.publish_file(store.layout.scores_json, json.dumps(scores).encode())
    with pytest.raises(StoreError, match="of another version or damaged; `ray-unlearn evaluate` makes a new one"):
        read_scores(store)


def test_a_null_that_cannot_be_is_not_announced(tmp_path: Path):
    """Law: what is scored of four retrained runs is not called a comparison with themselves; of six, it is."""
    for runs, said in ((4, "scored retrained one model at a time; too few runs for halves"), (6, "itself (N=3)")):
        lines: list[str] = []
        evaluate(*evaluated_store(tmp_path / str(runs), {"retrained": runs, "again": 3}), log=lines.append)
        assert lines[-1].endswith(said)


def test_without_retain_outputs_there_is_f_but_no_score(tmp_path: Path):
    """Law: what the study did not save is missing by name, and the rest is there."""
    study, store = evaluated_store(tmp_path, {"retrained": 4, "again": 4}, saved=("forget", "test"))
    measures = evaluate(study, store).populations["again"].measures
    assert measures["forgetting_quality"].value is not None
    assert measures["score"].missing == "needs outputs of retain: outputs: {splits: [forget, test, retain]}"


def test_a_study_without_a_test_set_is_not_reported_to_save_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Law: advice that cannot work is not given."""
    monkeypatch.delitem(SIZES, "test")
    study, store = evaluated_store(tmp_path, {"retrained": 4, "again": 4}, saved=("retain", "forget"))
    measures = evaluate(study, store).populations["again"].measures
    for name in ("score", "test_ratio", "rmia_auc"):
        assert measures[name].missing == "needs test images, and the study has no test set"
    assert measures["retain_ratio"].value is not None


def test_a_study_that_is_not_the_stores_is_refused(tmp_path: Path):
    """Law: scores never stand under values that the runs were not made with; counts and moved files may change."""
    study, store = evaluated_store(tmp_path, {"retrained": 2, "again": 2})
    other = study.model_copy(update={"training": study.training.model_copy(update={"lr": 0.5})})
    with pytest.raises(StoreError, match=r"made from other values than the study has: training\.lr: 0\.003 -> 0\.5"):
        evaluate(other, store)
    moved = study.data.model_copy(update={"train": study.data.train.model_copy(update={"path": "/elsewhere"})})
    assert evaluate(study.model_copy(update={"data": moved, **_more(study, "again", 3)}), store).warnings


def test_refusals(tmp_path: Path):
    """Law: no reference, no runs of it, an unknown name, other splits: one error that reports it."""
    study, store = evaluated_store(tmp_path, {"retrained": 2, "again": 2})
    with pytest.raises(StudyError, match=r"--only agian: not a population .* \(did you mean 'again'\?\)"):
        evaluate(study, store, populations=["agian"])
    with pytest.raises(StoreError, match="no evaluation yet; `ray-unlearn evaluate` makes one"):
        read_scores(store)
    store.storage.publish_file(store.layout.scores_json, b'{"format": 0}')
    with pytest.raises(StoreError, match="of another version or damaged"):
        read_scores(store)
    other = {"digest": "digest of again", "identity": {"data": {"splits": "cd" * 32}, "outputs": {}}}
    store.storage.publish_file(store.layout.population_json("again"), json.dumps(other).encode())
    with pytest.raises(StoreError, match=r"again and retrained do not compare: data\.splits: "):
        evaluate(study, store)
    store.storage.remove("tiny/retrained")
    with pytest.raises(StoreError, match="the reference retrained has no finished run"):
        evaluate(study, store)
    nobody = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"reference": "oracle"})})
    with pytest.raises(
        StudyError,
        match=r"the study has no population 'oracle' to compare others with .*evaluation: \{reference: NAME\}",
    ):
        evaluate(nobody, store)


def test_every_attack_has_its_curve_and_its_reference(scored: tuple[Path, Scores]):
    """Law: the population's ROC and the reference's start at 0 and end at 1."""
    found = scored[1].populations["shifted"]
    assert found.curves.keys() == {"u_lira", "rmia", "logistic_attack", "svc_efficacy"}
    for attack, curve in found.curves.items():
        for rates in (curve.true_positive_rate, curve.false_positive_rate, curve.null_true_positive_rate):
            assert (rates[0], rates[-1]) == (0.0, 1.0), attack


def test_all_populations_meet_one_null(tmp_path: Path):
    """Law: where counts differ, the smallest population decides at which N all are next to the same null."""
    study, store = evaluated_store(tmp_path, {"retrained": 12, "again": 12, "shifted": 4})
    found = evaluate(study, store).populations
    sizes = {name: found[name].measures["forgetting_quality"].null_n for name in ("again", "shifted")}
    assert sizes == {"again": 4, "shifted": 4}
    assert found["again"].measures["score"].null == found["shifted"].measures["score"].null


def test_more_runs_than_the_reference_are_left_out_aloud(tmp_path: Path):
    """Law: nothing is scored at fewer runs in silence."""
    study, store = evaluated_store(tmp_path, {"retrained": 4, "again": 6})
    scores = evaluate(study, store)
    assert scores.populations["again"].runs == 4
    assert scores.warnings == ("population again: 4 of 6 runs are scored, as many as retrained has",)


def test_changed_groups_are_seen(tmp_path: Path):
    """Law: a splits file written again with groups, of the same ids, makes the parts anew."""
    study, store = evaluated_store(tmp_path, {"retrained": 2})
    assert not [part for part in evaluate(study, store).populations["retrained"].slices if part.by == "group"]
    publish_splits(store, group="person")
    assert [part for part in evaluate(study, store).populations["retrained"].slices if part.by == "group"]


def test_without_forget_outputs_nothing_is_scored(tmp_path: Path):
    """Law: one error with the population's name, no traceback."""
    study, store = evaluated_store(tmp_path, {"retrained": 3, "again": 3}, saved=("test",))
    with pytest.raises(EvaluationError, match="population again: its runs saved no outputs of the forget set"):
        evaluate(study, store)


def test_stages_are_means_over_runs(tmp_path: Path):
    """Law: curves come from records, epoch by epoch."""
    study, store = evaluated_store(tmp_path, {"retrained": 1})
    store.storage.remove("tiny/retrained")
    for index, accuracy in enumerate((0.5, 0.7)):
        stages = [{"epoch": 1.0, "train_loss": 2.0, "forget_accuracy": accuracy}]
        publish(store, "retrained", index, draw_logits(index), stages=stages)
    study = study.model_copy(update=_more(study, "retrained", 2))
    (stage,) = evaluate(study, store).populations["retrained"].stages
    assert (stage.epoch, stage.n, stage.metrics) == (1, 2, {"train_loss": 2.0, "forget_accuracy": pytest.approx(0.6)})


def test_the_same_images_stand_for_all_methods(scored: tuple[Path, Scores]):
    """Law: the pictured forget images are chosen by the reference alone, with every run's phi."""
    again, shifted = (scored[1].populations[name].examples for name in ("again", "shifted"))
    assert [example.image_id for example in again] == [example.image_id for example in shifted]
    assert all(len(example.unlearned) == len(example.retrained) == 12 for example in again)
    assert [example.retrained for example in again] == [example.retrained for example in shifted]
    means = [np.mean(example.retrained) for example in again]
    assert means == sorted(means)


def test_a_population_is_tested_as_a_whole(scored: tuple[Path, Scores]):
    """Law: runs four standard deviations off are distinguished, runs drawn alike are not; p is corrected for
    all four.
    """
    again, shifted = (scored[1].populations[name] for name in ("again", "shifted"))
    assert again.tests.keys() == shifted.tests.keys() == {"energy", "log_variance"}
    assert shifted.tests["energy"].p == 0.0005
    assert shifted.tests["energy"].adjusted == 0.002
    assert all(one.adjusted > 0.05 for one in again.tests.values())
    assert again.tests["energy"].p < again.tests["energy"].adjusted
    assert not shifted.equivalence.equivalent
    assert shifted.equivalence.low < shifted.equivalence.difference < -shifted.equivalence.margin
    quality = again.measures["forgetting_quality"]
    assert again.equivalence.difference == pytest.approx(quality.at_null_n - quality.null)


def test_populations_have_places(scored: tuple[Path, Scores]):
    """Law: by F and by score, the distant population is surely second; the interval of all is wider than its own."""
    ranks = scored[1].ranks
    assert ranks.keys() == {"score", "forgetting_quality"}
    for measure, places in ranks.items():
        assert (places["again"].best, places["again"].worst) == (1, 1)
        assert (places["shifted"].best, places["shifted"].worst) == (2, 2)
        own = scored[1].populations["again"].measures[measure]
        assert places["again"].low < own.low < own.high < places["again"].high


def test_populations_of_different_n_tie(tmp_path: Path):
    """Law: F depends on N, so nothing is sure between them; the verdict says so, and quotes the interval of all."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "again": 8, "shifted": 6})
    scores = evaluate(study, store)
    for measure in ("score", "forgetting_quality"):
        assert {(one.best, one.worst) for one in scores.ranks[measure].values()} == {(1, 2)}
        own = scores.populations["again"].measures[measure]
        assert scores.ranks[measure]["again"].low < own.low < own.high < scores.ranks[measure]["again"].high
    assert verdict(scores).startswith("Which of again and shifted is closest to retraining is not settled")


def test_single_images_are_looked_at(scored: tuple[Path, Scores]):
    """Law: the worst images, the surely known and F by class are there; those of the distant population are worse."""
    again, shifted = (scored[1].populations[name] for name in ("again", "shifted"))
    assert [one.number for one in again.worst_images] == ["epsilon", "u_lira_auc", "klom"]
    for mild, bad in zip(again.worst_images, shifted.worst_images, strict=True):
        assert mild.n == bad.n == 8
        assert mild.null == bad.null
        assert list(bad.quantiles) == sorted(bad.quantiles)
        assert bad.quantiles[0] > mild.quantiles[0]
        assert bad.beyond_null >= mild.beyond_null
        assert bad.worst.startswith("forget-")
    assert again.epsilon_bounds.shown == 0
    assert again.epsilon_bounds.worst == ""
    assert again.epsilon_bounds.median <= shifted.epsilon_bounds.median <= shifted.epsilon_bounds.ceiling + 1
    forget = [one for one in again.slices if one.split == "forget"]
    whole = next(one.quality for one in forget if one.by == "all")
    assert whole == pytest.approx(again.measures["forgetting_quality"].value)
    assert np.mean([one.quality for one in forget if one.by == "class"]) == pytest.approx(whole)  # four images each
    assert {one.quality for one in again.slices if one.split == "test"} == {None}


def test_several_originals_are_a_level(tmp_path: Path):
    """Law: with four originals the shares of the variance are there, and the error is over originals."""
    _, store = evaluated_store(tmp_path, {"retrained": 8})
    spec = {"method": "finetune", "count": 8, "originals": 4}
    study = study_of(tmp_path, {"retrained": 8}, populations={"original": {"count": 4}, "many": spec})
    store.storage.publish_file(store.layout.study_json, study.model_dump_json().encode())
    for index in range(8):
        publish(store, "many", index, draw_logits(500 + index, shift=(index % 4) / 2), original=index % 4)
    for index in range(1, 4):
        publish(store, "original", index, draw_logits(index), original=index)
    found = evaluate(study, store).populations["many"]
    assert (found.variance.originals, found.variance.runs_each) == (4, 2.0)
    assert found.variance.original_share + found.variance.run_share == pytest.approx(1.0)
    assert found.variance.buys_more in ("originals", "runs")
    assert 3 <= found.measures["test_ratio"].df < 12
    assert 3 <= found.measures["forgetting_quality"].df <= 3 * 12
    assert not any("original" in line for line in found.warnings)


def test_scores_that_disagree_with_themselves_are_one_error(tmp_path: Path):
    """Law: a population under another's name, or a curve of unequal halves, is damage, not a traceback of a page."""
    study, store = evaluated_store(tmp_path, {"retrained": 6, "again": 6})
    evaluate(study, store)
    file = tmp_path / "tiny" / "scores.json"
    whole = json.loads(file.read_text())
    renamed = {**whole, "populations": {"other": whole["populations"]["again"]}}
    curves = whole["populations"]["again"]["curves"]
    name = next(iter(curves))
    curves[name]["true_positive_rate"] = curves[name]["true_positive_rate"][1:]
    for content in (renamed, whole):
        file.write_text(json.dumps(content))
        with pytest.raises(StoreError, match="of another version or damaged"):
            read_scores(store)


def test_the_growth_curve_has_a_range_at_every_n(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: at N itself it is F with its interval, below it the range of one study with so many runs; never empty."""
    leave_fits_out(monkeypatch)
    study, store = evaluated_store(tmp_path, {"retrained": 16, "again": 16})
    found = evaluate(study, store, mode="exact").populations["again"]
    few, whole = found.growth
    quality = found.measures["forgetting_quality"]
    assert (few.n, whole.n) == (8, 16)
    assert (whole.value, whole.low, whole.high) == (quality.value, quality.low, quality.high)
    assert 0 <= few.low < few.value < few.high <= 1
    assert whole.low < whole.value < whole.high
