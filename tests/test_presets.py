"""Tuning: which trials there are, that each is made of ordinary runs, and what is kept of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from conftest import TINY, merged, payload_bytes

from ray_unlearn.driver.objective import Judgement
from ray_unlearn.driver.tuning import (
    Choice,
    LogUniform,
    Result,
    Trial,
    judge_population,
    make_trials,
    prepare_original,
    run_trial,
    trial_study,
)
from ray_unlearn.driver.tuning_record import Setup, TuningRecord, make_record, module_text, portable, table_lines
from ray_unlearn.errors import StudyError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods import tuned as module
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.study import load_study, parse_study

ROOT = Path(__file__).resolve().parents[1]
LEARNERS = {n for n, m in METHODS.items() if m.starts_from == "original" and m.options.model_fields} - {"mix"}
"""Methods with something to learn from an original."""
SETTINGS = ("digits", "cifar10")
TUNE = {
    "data": {"test": None, "validation": 0.3},
    "populations": {"retrained": {"method": "train", "on": "retain", "count": 2}, "finetune": None},
    "outputs": {"splits": ["retain", "forget", "validation"]},
}


@pytest.fixture
def study(tiny):
    """A study to tune on: 100 digits, no test set."""
    return tiny(**TUNE)


def job() -> ModuleType:
    """Return jobs/tune.py, imported and not run."""
    spec = importlib.util.spec_from_file_location("tune_job", ROOT / "jobs" / "tune.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


# Which trials there are


def test_values_by_hand():
    """Law: half way between 1e-4 and 1e-2 in the logarithm is 1e-3; two digits; a choice has equal parts."""
    rates, choice = LogUniform(1e-4, 1e-2), Choice((1, 2, 3, 4))
    assert [rates.at(share) for share in (0.0, 0.5, 1.0)] == [1e-4, 1e-3, 1e-2]
    assert LogUniform(1.0, 7.0).at(0.5) == 2.6  # sqrt 7 = 2.6458
    assert [choice.at(share) for share in (0.0, 0.24, 0.25, 0.99, 1.0)] == [1, 1, 2, 4, 4]


def test_trial_0_is_published_and_the_rest_covers_every_stratum():
    """Law: trial 0 has the defaults; of 8 others, each eighth of a range, and each of 4 choices twice, is drawn."""
    space = {"lr": LogUniform(1e-4, 1.0), "epochs": Choice((1.0, 2.0, 3.0, 4.0))}
    trials = make_trials({"finetune": space}, count=9, seed=0)
    assert [trial.number for trial in trials] == list(range(9))
    assert trials[0].options == {"lr": 1e-3, "epochs": 1.0}
    epochs = sorted(trial.options["epochs"] for trial in trials[1:])
    assert epochs == [1, 1, 2, 2, 3, 3, 4, 4]
    rates = sorted(trial.options["lr"] for trial in trials[1:])
    for i, rate in enumerate(rates):
        assert 10 ** (-4 + i / 2) * 0.94 <= rate <= 10 ** (-4 + (i + 1) / 2) * 1.06  # strata, and two digits


def test_trials_depend_on_seed_and_method_alone():
    """Law: repeatable; a method's trials are the same alone and in company; another seed draws others."""
    space = {"lr": LogUniform(1e-4, 1.0)}
    both = make_trials({"finetune": space, "salun": space}, count=4, seed=0)
    assert both == make_trials({"finetune": space, "salun": space}, count=4, seed=0)
    assert [t for t in both if t.method == "salun"] == make_trials({"salun": space}, count=4, seed=0)
    assert both[1].options != both[5].options
    assert make_trials({"salun": space}, count=4, seed=1)[1:] != both[5:]
    assert len(make_trials({"salun": space}, count=1, seed=0)) == 1


@pytest.mark.parametrize(
    ("spaces", "count", "expected"),
    [
        ({"fintune": {}}, 2, "no method 'fintune' (did you mean 'finetune'?)"),
        ({"finetune": {"lrr": Choice((1,))}}, 2, "has no option 'lrr' (did you mean 'lr'?)"),
        ({"finetune": {}}, 0, "--trials: expected at least 1; found 0"),
    ],
)
def test_mistakes_in_a_space(spaces, count, expected):
    """Law: method, option and number are refused before any work."""
    with pytest.raises(StudyError) as caught:
        make_trials(spaces, count=count, seed=0)
    assert expected in str(caught.value)


def test_the_job_tunes_every_method_that_can_learn():
    """Law: each has a space; every published and every extreme value is one that the method takes."""
    spaces = job().SPACES
    assert set(spaces) == LEARNERS
    for method, space in spaces.items():
        for options in (
            {name: METHODS[method].options.model_fields[name].default for name in space},
            {name: one.at(0.0) for name, one in space.items()},
            {name: one.at(1.0) for name, one in space.items()},
        ):
            METHODS[method].options.model_validate(options)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_studies_tuned_on_have_no_test_set(setting):
    """Law: no test image is in the data, nor in the outputs."""
    study = load_study(ROOT / "jobs" / "studies" / f"tune-{setting}.yaml")
    assert study.data.test is None
    assert study.data.validation == 0.2
    assert set(study.outputs.splits) == {"retain", "forget", "validation"}


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"test": "digits"}},
        {"data": {"validation": None}},
        {"outputs": {"splits": ["retain", "forget", "validation", "test"]}},
        {"outputs": {"splits": ["forget", "validation"]}},
    ],
)
def test_a_study_with_a_test_set_is_not_tuned_on(tmp_path, changes):
    """Law: before any work, with what is expected of such a study."""
    tree = merged(merged(TINY, TUNE), changes) | {"storage": str(tmp_path / "store")}
    with pytest.raises(StudyError, match=r"must have data\.validation, no data\.test, and outputs"):
        prepare_original(parse_study(tree, where="x"))
    assert not list(tmp_path.iterdir())


# What a trial does


def test_a_trial_is_made_of_ordinary_runs(study, tmp_path):
    """Law: the same bytes as a population of the study's own would have, from the same original, with fewer files."""
    prepare_original(study)
    trial = Trial(method="finetune", number=3, options={"lr": 0.02, "noise_std": 0.01})
    result = run_trial(study, trial, seeds=2)
    assert len(result.judgements) == 2
    assert result.judgements[0] != result.judgements[1]
    assert all(0 < each.objective <= 1 for each in result.judgements)
    assert result.mean == pytest.approx(sum(each.objective for each in result.judgements) / 2)
    assert result.failed == 0
    stored, own = payload_bytes(tmp_path / "store"), trial_study(study, trial, 2).name
    assert own.startswith("tiny-finetune-03-")
    assert stored["tiny/original/00000/model.safetensors"] == stored[f"{own}/original/00000/model.safetensors"]
    assert [name for name in stored if name.startswith(f"{own}/finetune")] == [
        f"{own}/finetune/0000{i}/outputs.arrow" for i in range(2)
    ]
    assert run_trial(study, trial, seeds=2) == result  # made already, and judged alike
    other = Trial(method="finetune", number=3, options={"lr": 0.03})  # of another tuning in the same storage
    assert run_trial(study, other, seeds=1).mean > 0


def test_no_test_image_reaches_a_trial(study, tmp_path):
    """Law: neither splits nor outputs of a trial hold one."""
    import pyarrow as pa

    prepare_original(study)
    run_trial(study, Trial(method="finetune", number=0, options={}), seeds=1)
    files = [*tmp_path.glob("store/*/splits/*.arrow"), *tmp_path.glob("store/*/*/*/outputs.arrow")]
    assert len(files) >= 4
    for file in files:
        assert set(pa.ipc.open_file(file).read_all()["split"].to_pylist()) == {"retain", "forget", "validation"}


def test_a_run_that_diverges_counts_as_nothing(study):
    """Law: an impossible rate gives objective 0 and is counted; the tuning goes on."""
    prepare_original(study)
    result = run_trial(study, Trial(method="finetune", number=1, options={"lr": 1e30}), seeds=1)
    assert (result.mean, result.failed, result.sd) == (0.0, 1, None)


def test_a_deterministic_method_has_one_seed(study):
    """Law: runs that are equal are not made twice."""
    prepare_original(study)
    trial = Trial(method="selective_synaptic_dampening", number=0, options={"images_per_gradient": 100})
    assert len(run_trial(study, trial, seeds=3).judgements) == 1


@pytest.mark.ray
def test_tune_gives_what_this_process_gives(study, ray_cluster):
    """Law: Ray Tune places trials and changes none; results come in the order of the trials."""
    from ray_unlearn.driver.ray_tune import tune_trials

    prepare_original(study)
    trials = make_trials({"finetune": {"lr": LogUniform(1e-3, 1e-1)}}, count=2, seed=0)
    assert tune_trials(study, trials, seeds=1) == [run_trial(study, trial, seeds=1) for trial in trials]


def test_controls_are_judged_alike(study):
    """Law: one judgement per run of the study's own population; the original itself keeps everything."""
    prepare_original(study)
    assert len(judge_population(study, "retrained")) == 2
    assert judge_population(study, "original")[0].keeping == 1.0


# What is kept


def results(*objectives: float, method: str = "finetune") -> list[Result]:
    """Return trials of a method whose single seed has these objectives."""
    return [
        Result(
            trial=Trial(method=method, number=i, options={"lr": 0.1 * (i + 1)}),
            judgements=[Judgement(keeping=1.0, forgetting=value)],
            failed=0,
        )
        for i, value in enumerate(objectives)
    ]


def setup(study, **changes) -> Setup:
    fields = {"setting": "digits", "sentence": "A few.", "trials": 3, "seeds": 1, "seed": 0, "study": portable(study)}
    return Setup(**fields | changes)


@pytest.mark.parametrize(("objectives", "chosen"), [((0.2, 0.5, 0.4), 1), ((0.5, 0.5, 0.4), 0), ((0.5, 0.50001), 0)])
def test_the_best_trial_is_chosen_the_published_one_where_nothing_is_better(study, objectives, chosen):
    """Law: the highest mean; of equal ones, to the four digits that are kept, the earliest."""
    record = make_record(setup(study), results(*objectives), {}, None)
    assert record.methods["finetune"].chosen == chosen
    assert record.methods["finetune"].options == {"lr": 0.1 * (chosen + 1)}


def test_the_score_by_hand(study):
    """Law: mean, standard deviation (n - 1) and factors over seeds: 0.2 and 0.4 have mean 0.3 and sd 0.1414."""
    judgements = [Judgement(keeping=0.5, forgetting=0.4), Judgement(keeping=0.5, forgetting=0.8)]
    trial = Trial(method="finetune", number=0, options={})
    record = make_record(
        setup(study), [Result(trial=trial, judgements=judgements, failed=0)], {"own": judgements}, None
    )
    score = record.methods["finetune"].trials[0].score
    assert (score.objective_mean, score.objective_sd, score.seeds) == (0.3, 0.1414, 2)
    assert (score.keeping_mean, score.forgetting_mean) == (0.5, 0.6)
    assert record.controls == {"own": score}


def test_methods_join_a_record_of_the_same_setup_only(study):
    """Law: tuning one method more keeps the others' trials; with other trials or data it is refused."""
    first = make_record(setup(study), results(0.1, 0.2), {}, None)
    both = make_record(setup(study), results(0.3, method="salun"), {}, first)
    assert list(both.methods) == ["finetune", "salun"]
    assert both.methods["finetune"] == first.methods["finetune"]
    again = make_record(setup(study), results(0.3, 0.1), {}, first)
    assert again.methods["finetune"].chosen == 0
    with pytest.raises(StudyError, match="another study, or other trials and seeds"):
        make_record(setup(study, seeds=2), results(0.3), {}, first)


def test_a_record_names_no_folder_of_a_machine(tmp_path):
    """Law: a file's name identifies the data; where it lay does not leave the machine."""
    data = {"train": str(tmp_path / "some.parquet")}
    study = parse_study(merged(TINY, {"storage": str(tmp_path), "data": data}), where="x")
    text = json.dumps(portable(study))
    assert str(tmp_path) not in text
    assert "some.parquet" in text


def test_the_module_says_what_the_record_says(study):
    """Law: the text is Python; setting, sentence, options and the batch size that rates go with are in it."""
    record = make_record(setup(study), results(0.1, 0.2), {}, None)
    namespace: dict = {}
    exec(module_text([record]), namespace)  # noqa: S102 - made here
    assert namespace["SETTINGS"] == {"digits": "A few."}
    assert namespace["TUNED"] == {"digits": {"finetune": {"batch_size": 32, "lr": 0.2}}}
    assert "0.200" in "\n".join(table_lines(record))


# The presets of the package


def record_of(setting: str) -> TuningRecord:
    """Return a setting's record beside the job."""
    return TuningRecord.model_validate_json((ROOT / "jobs" / "tuned" / f"{setting}.json").read_text())


def test_module_and_records_agree():
    """Law: the presets are exactly what the recorded trials chose; neither is edited by hand."""
    assert Path(module.__file__).read_text() == module_text([record_of(setting) for setting in SETTINGS])


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_method_that_can_learn_has_the_preset(setting):
    """Law: a study names it, a population overrides single options, and the method says what it was tuned on."""
    for name in LEARNERS:
        preset = METHODS[name].presets[setting]
        tree = merged(TINY, {"populations": {"mine": {"method": name, "preset": setting}}})
        options = resolve(parse_study(tree, where="x"), "mine").options
        expected = METHODS[name].options(**preset)
        assert preset
        assert all(getattr(options, key) == getattr(expected, key) for key in preset)
        assert METHODS[name].preset_source(setting).startswith("tuned on validation data: ")
    tree = merged(TINY, {"populations": {"mine": {"method": "finetune", "preset": setting, "lr": 0.5}}})
    assert resolve(parse_study(tree, where="x"), "mine").options.lr == 0.5


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_records_are_whole(setting):
    """Law: every method, every trial, at least 3 seeds but for deterministic methods, the best one chosen, no path."""
    record = record_of(setting)
    assert set(record.methods) == LEARNERS
    assert record.setup.seeds >= 3
    for name, method in record.methods.items():
        assert [trial.number for trial in method.trials] == list(range(record.setup.trials))
        fields = METHODS[name].options.model_fields
        assert method.trials[0].options == json.loads(
            json.dumps({key: fields[key].default for key in method.trials[0].options})
        )
        assert all(t.score.seeds == (1 if METHODS[name].deterministic else record.setup.seeds) for t in method.trials)
        assert method.trials[method.chosen].score.objective_mean == max(t.score.objective_mean for t in method.trials)
    text = record.model_dump_json()
    assert not any(word in text for word in ("/work", "/tmp", "/home"))


def test_published_presets_say_so():
    """Law: only what was tuned claims to have been; what was published is named for it."""
    for method in METHODS.values():
        published = set(method.presets) - set(SETTINGS)
        assert all(name.startswith(("competition", "published")) for name in published)
        assert all(method.preset_source(name) == "as published" for name in published)
        assert set(method.tuned_on) == set(method.presets) - published
