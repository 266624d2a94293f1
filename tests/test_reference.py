"""jobs/studies/reference: studies, the trials that their rates come from, and how they agree with published orders."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from presets_job import trials
from scored import make_scores

from ray_unlearn.errors import StoreError, StudyError
from ray_unlearn.evaluation.scores import Estimate, Scores
from ray_unlearn.study import Study, load_study

FOLDER = Path(__file__).parents[1] / "jobs" / "studies" / "reference"
STUDIES = ["digits", *(path.name.removesuffix("-trials.json") for path in sorted(FOLDER.glob("*-trials.json")))]
WINNERS = {"fanchuan", "kookmin", "seif", "sebastian", "toshi_marvel", "amnesiacs", "sun", "forget"}
BASELINES = {
    "finetune",
    "gradient_ascent",
    "negative_gradient_plus",
    "random_label",
    "salun",
    "l1_sparse",
    "scrub",
    "bad_teacher",
}


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reference_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


field, nets = module("field"), module("nets")


def loaded(name: str) -> Study:
    return load_study(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_has_all_winners_and_baselines_in_full(name: str):
    """Law: two originals, 64 retrained models, and 32 runs of eight winners and eight baselines from both originals."""
    populations = loaded(name).populations
    assert {*populations} == {"original", "retrained", "control"} | WINNERS | BASELINES
    assert populations["original"].planned == 2
    assert populations["retrained"].planned == 64
    for method in ("control", *WINNERS, *BASELINES):
        assert populations[method].planned == 32
        assert populations[method].originals == 2
    assert all(populations[one].method == one for one in WINNERS | BASELINES)


@pytest.mark.parametrize("name", STUDIES[1:])
def test_rates_are_those_that_the_kept_trials_chose(name: str):
    """Law: each population has the options of the best trial; trials were of this net and recipe, on other images."""
    study, tuned = loaded(name), loaded(f"tune-{name}")
    record = json.loads((FOLDER / f"{name}-trials.json").read_text())
    for method in WINNERS | BASELINES:
        kept = record["methods"][method]["trials"]
        best = max(kept, key=lambda one: one["score"]["objective_mean"])
        options = json.loads(json.dumps(study.populations[method].options))
        assert options == {
            key: pytest.approx(value) if isinstance(value, float) else value for key, value in best["options"].items()
        }
    assert (tuned.model.arch, tuned.model.options, tuned.training) == (
        study.model.arch,
        study.model.options,
        study.training,
    )
    assert tuned.seed != study.seed
    assert tuned.data.test is None
    stated = record["setup"]["study"]
    assert stated["training"] == json.loads(json.dumps(tuned.model_dump(mode="json", exclude_unset=True)["training"]))


def with_values(values: dict[str, float]) -> Scores:
    made = make_scores({name: (name, value) for name, value in values.items()}, runs=32)
    for name, value in values.items():
        made.populations[name].measures["score"] = Estimate(value=value, se=1e-3, df=10.0, n=32)
    return made


def test_agreement_is_1_with_the_same_order_and_minus_1_with_the_reverse():
    """Law: the same order gives tau 1 with a small p, the reverse -1 with p near 1; three methods give nothing."""
    order = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0, "e": 0.0}
    statistic = field.tau_with(order)
    scores = with_values({name: 0.02 + 0.01 * value for name, value in order.items()})
    same = field.agreement(scores, list(order), statistic)
    assert same.value == 1.0
    assert same.methods == 5
    assert same.p == pytest.approx(1 / 120, abs=0.003)
    assert same.low < 1.0
    reverse = field.agreement(scores, list(order), field.tau_with({name: -value for name, value in order.items()}))
    assert reverse.value == -1.0
    assert reverse.p == 1.0
    assert field.agreement(scores, ["a", "b", "c"], statistic) is None
    share = field.share_of([("a", "b"), ("c", "b"), ("a", "missing")])
    assert share(np.array([3.0, 2.0, 1.0]), ["a", "b", "c"]) == 0.5


def test_tables_replace_what_is_between_the_marks():
    """Law: only the text between both marks changes; a text without them is refused."""
    assert field.written("x <!-- t: begin --> old <!-- t: end --> y", "t", ["new"]) == (
        "x <!-- t: begin -->\nnew\n<!-- t: end --> y"
    )
    with pytest.raises(StoreError, match="expected the marks"):
        field.written("x", "t", ["new"])


def test_the_net_has_the_stated_size():
    """Law: 79,962 parameters at width 16 and ten classes; logits of each image."""
    net = nets.small_resnet(10)
    assert sum(one.numel() for one in net.parameters()) == 79_962
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_an_option_is_fixed_in_every_trial_that_has_it():
    """Law: --fix sets the published trial's option too, leaves methods without it alone, and refuses other keys."""
    found = trials.make_trials({"scrub": {"lr": trials.LogUniform(1e-4, 1e-2)}, "influence": {}}, count=2, seed=0)
    fixed = trials.with_fixed(found, ["epochs=5.0"])
    assert [one.options.get("epochs") for one in fixed] == [5.0, 5.0, None, None]
    assert [one.options.get("lr") for one in fixed] == [one.options.get("lr") for one in found]
    for text in ("epochs", "width=3"):
        with pytest.raises(StudyError, match="--fix"):
            trials.with_fixed(found, [text])
