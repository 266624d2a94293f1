"""Tuning: which trials there are, that each is made of ordinary runs, and what is kept of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import presets_job as job
import pytest
from conftest import TINY, merged, payload_bytes
from forks import forked

from ray_unlearn.errors import StudyError
from ray_unlearn.generation import generate
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.presets import settings
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.study import load_study, parse_study
from ray_unlearn.study.recipe import INHERITED
from ray_unlearn.study.schema import PopulationSpec

Judgement = job.objective.Judgement
Choice, LogUniform, Result, Trial = (getattr(job.trials, name) for name in ("Choice", "LogUniform", "Result", "Trial"))
judge_trials, with_trials, make_trials = job.trials.judge_trials, job.trials.with_trials, job.trials.make_trials
judge_population = job.trials.judge_population
Setup, TuningRecord = job.trial_records.Setup, job.trial_records.TuningRecord
make_record, portable = job.trial_records.make_record, job.trial_records.portable
presets_text, table_lines = job.trial_records.presets_text, job.trial_records.table_lines

ROOT = Path(__file__).resolve().parents[1]
STATED = {name for name, method in METHODS.items() if method.guarantee}
"""Methods with a stated (epsilon, delta), which covers no options that were chosen by results on the data."""
LEARNERS = {n for n, m in METHODS.items() if m.starts_from == "original" and m.options.model_fields} - {"mix"} - STATED
"""Methods with something to learn from an original."""
SETTINGS = ("digits", "cifar10")
LATER = {"unsir", "boundary_expanding", "jit", "amun", "task_vector", "sfron"}
CORRECTED = {"sebastian", "toshi_marvel"}
"""Methods that were corrected after they had been tuned on CIFAR-10, and were not tuned anew."""
TUNED = {"digits": LEARNERS, "cifar10": LEARNERS - LATER - CORRECTED}
"""By setting: the methods that were tuned there; those that came with 0.2 were on digits alone, if at all."""
TUNE = {
    "data": {"test": None, "validation": 0.3},
    "populations": {"retrained": {"method": "train", "on": "retain", "count": 2}, "finetune": None},
    "outputs": {"splits": ["retain", "forget", "validation"]},
}


OWN = """\
import torch


def unlearning(net, retain_loader, forget_loader, val_loader, lr: float = 0.01, passes: int = 1):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=lr * passes)
"""


@pytest.fixture
def study(tiny):
    """A study to tune on: 100 digits, no test set."""
    return tiny(**TUNE)


def made(study, trials, seeds):
    """Make the study's own populations and the trials' in this process; return the study that has both."""
    whole = with_trials(study, trials, seeds)
    generate(whole, backend="inline")
    return whole


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
    spaces = job.tune.SPACES
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
    study = load_study(ROOT / "jobs" / "presets" / f"tune-{setting}.yaml")
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
        job.trials.check_study(parse_study(tree, where="x"))
    assert not list(tmp_path.iterdir())


# What a trial does


def test_a_trial_is_an_ordinary_population(study, tmp_path):
    """Law: outputs are the bytes that a population of that name and those options has, and no checkpoint is kept."""
    trial = Trial(method="finetune", number=3, options={"lr": 0.02, "noise_std": 0.01})
    other = Trial(method="finetune", number=3, options={"lr": 0.03})  # of another tuning in the same storage
    whole = made(study, [trial, other], seeds=2)
    assert trial.population.startswith("finetune-03-")
    assert set(whole.populations) == {*study.populations, trial.population, other.population}
    first, second = judge_trials(whole, [trial, other])
    assert (first.trial, second.trial) == (trial, other)
    assert len(first.judgements) == 2
    assert first.judgements[0] != first.judgements[1]
    assert all(0 < each.objective <= 1 for each in first.judgements)
    assert (first.failed, first.judgements != second.judgements) == (0, True)
    own = PopulationSpec.model_validate({"method": "finetune", "count": 2, "lr": 0.02, "noise_std": 0.01})
    plain = study.model_copy(
        update={
            "storage": str(tmp_path / "plain"),
            "populations": {"original": study.populations["original"], trial.population: own},
        }
    )
    generate(plain, backend="inline")
    stored, expected = payload_bytes(tmp_path / "store"), payload_bytes(tmp_path / "plain")
    names = [name for name in stored if name.startswith(f"tiny/{trial.population}")]
    assert names == [f"tiny/{trial.population}/0000{i}/outputs.arrow" for i in range(2)]
    assert all(stored[name] == expected[name] for name in names)


def test_no_test_image_reaches_a_trial(study, tmp_path):
    """Law: neither splits nor outputs of a trial hold one."""
    import pyarrow as pa

    made(study, [Trial(method="finetune", number=0, options={})], seeds=1)
    files = [*tmp_path.glob("store/*/splits/*.arrow"), *tmp_path.glob("store/*/*/*/outputs.arrow")]
    assert len(files) >= 4
    for file in files:
        assert set(pa.ipc.open_file(file).read_all()["split"].to_pylist()) == {"retain", "forget", "validation"}


def test_a_run_that_diverges_counts_as_nothing(study):
    """Law: an impossible rate gives objective 0 and is counted; the tuning goes on."""
    trial = Trial(method="finetune", number=1, options={"lr": 1e30})
    (result,) = judge_trials(made(study, [trial], 1), [trial])
    assert ([each.objective for each in result.judgements], result.failed) == ([0.0], 1)


def test_a_run_that_is_missing_or_failed_by_mistake_ends_the_job(study):
    """Law: only a loss that is not finite counts as nothing; what was not made is an error that names the run."""
    from ray_unlearn.errors import StoreError

    trial = Trial(method="finetune", number=1, options={})
    generate(study, backend="inline")
    with pytest.raises(StoreError, match=r"trial finetune-01-\w+/00000: it was not made; run the job again"):
        judge_trials(with_trials(study, [trial], 1), [trial])
    wrong = Trial(method="seif", number=0, options={"batch_weights": (1.0,) * 11})  # eleven weights for ten classes
    with pytest.raises(StoreError, match=r"trial seif-00-.*MethodError: batch_weights"):
        judge_trials(made(study, [wrong], 1), [wrong])


def test_a_deterministic_method_has_one_seed(study):
    """Law: runs that are equal are not made twice."""
    trial = Trial(method="selective_synaptic_dampening", number=0, options={})
    assert with_trials(study, [trial], 3).populations[trial.population].planned == 1


def test_the_job_from_end_to_end(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Law: the command writes a record whose controls and trials are judged, and with --record no preset."""
    import yaml

    tree = merged(TINY, TUNE) | {"storage": str(tmp_path / "store")}
    tree["populations"]["untouched"] = {"method": "null", "count": 1}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    before = {file: file.read_bytes() for file in (ROOT / "ray_unlearn/methods/presets").glob("*.json")}
    command = ["tune.py", "--setting", "mine", "--study", str(tmp_path / "mine.yaml")]
    more = ["--methods", "finetune", "--trials", "2", "--seeds", "2", "--backend", "inline"]
    record_file = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", [*command, *more, "--record", str(record_file)])
    job.tune.main()
    record = TuningRecord.model_validate_json(record_file.read_text())
    assert set(record.controls) == {"retrained", "untouched"}
    assert [trial.score.seeds for trial in record.methods["finetune"].trials] == [2, 2]
    (tmp_path / "own.py").write_text(OWN)
    own = [
        "--methods",
        str(tmp_path / "own.py:unlearning"),
        "--space",
        "lr=1e-3..1e-1",
        "--trials",
        "2",
        "--seeds",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", [*command, *own, "--backend", "inline", "--record", str(tmp_path / "own.json")])
    job.tune.main()
    scripted = TuningRecord.model_validate_json((tmp_path / "own.json").read_text()).methods["own.py:unlearning"]
    assert scripted.trials[0].options == {"lr": 0.01}  # the function's default
    assert 1e-3 < scripted.trials[1].options["lr"] < 1e-1
    assert scripted.fixed == {"passes": 1}
    said = json.loads(capsys.readouterr().out.split("for a study: ")[2].splitlines()[0])
    assert said == {"method": "own.py:unlearning", **scripted.options}  # YAML has every JSON
    assert len({trial.score.forgetting_mean for trial in scripted.trials}) == 2  # the rate reached the function
    assert str(tmp_path) not in (tmp_path / "own.json").read_text()
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--methods", "own.py:unlearning"], "a script has no range yet; --space KEY=LOW..HIGH gives one"),
        (["--methods", "own.py:unlearning", "--space", "lr=1e-3..1"], "so --record FILE is needed"),
        (["--methods", "finetune,scrub", "--space", "lr=1e-3..1"], "expected one method in --methods; found 2"),
        (["--methods", "finetune", "--space", "lr=0..1", "--record", "x"], "--space lr=0..1: expected KEY=LOW..HIGH"),
        (["--methods", "finetune", "--space", "lr=", "--record", "x"], "--space lr=: expected KEY=LOW..HIGH"),
    ],
)
def test_a_wrong_range_is_refused(arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch):
    """Law: before any work, with the form that is expected."""
    monkeypatch.setattr(sys, "argv", ["tune.py", "--setting", "digits", *arguments])
    with pytest.raises(StudyError) as caught:
        job.tune.main()
    assert complaint in str(caught.value)


def test_ranges_are_read():
    """Law: two numbers are a logarithmic range; a list is a choice of YAML values."""
    found = job.trials.space_of(["lr=1e-4..1e-1", "steps=1,2", "kind=a,0.5,true"])
    assert found == {"lr": LogUniform(1e-4, 1e-1), "steps": Choice((1, 2)), "kind": Choice(("a", 0.5, True))}


def test_controls_are_judged_alike(study):
    """Law: one judgement per run of the study's own population; the original itself keeps everything."""
    generate(study, backend="inline")
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


def test_a_preset_pins_every_option_of_the_methods_own(study):
    """Law: the searched options at the chosen values, the others as they were in the trials, and the batch size."""
    record = make_record(setup(study), results(0.1, 0.2), {}, None)
    found = json.loads(presets_text(record))
    assert found["sentence"] == "A few."
    own = set(METHODS["finetune"].options.model_fields) - set(INHERITED)
    assert set(found["presets"]["finetune"]) == {"batch_size", *own}
    assert {key: found["presets"]["finetune"][key] for key in ("batch_size", "lr", "epochs", "schedule")} == {
        "batch_size": 32,
        "lr": 0.2,
        "epochs": 1.0,
        "schedule": "cosine",
    }
    assert "0.200" in "\n".join(table_lines(record))


# The presets of the package


def record_of(setting: str) -> TuningRecord:
    """Return a setting's record next to the job."""
    return TuningRecord.model_validate_json((job.FOLDER / f"{setting}.json").read_text())


def test_presets_and_records_agree():
    """Law: the presets are exactly what the recorded trials chose; neither is edited by hand."""
    folder = ROOT / "ray_unlearn" / "methods" / "presets"
    assert sorted(settings()) == sorted(SETTINGS) == sorted(file.stem for file in folder.glob("*.json"))
    for setting in SETTINGS:
        assert (folder / f"{setting}.json").read_text() == presets_text(record_of(setting))


def test_importing_the_methods_reads_no_preset():
    """Law: the files are read when a preset is first asked for, and once; in a process that has only imported them."""
    process = forked(_asks_for_presets)
    process.join(60)
    assert process.exitcode == 0


def _asks_for_presets() -> None:
    assert settings.cache_info().currsize == 0
    assert METHODS["finetune"].presets
    assert METHODS["salun"].presets
    assert settings.cache_info().misses == 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_method_that_can_learn_has_the_preset(setting):
    """Law: a study names it, a population overrides single options, and the method states what it was tuned on."""
    for name in TUNED[setting]:
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
    assert set(record.methods) == TUNED[setting]
    assert record.setup.seeds >= 3
    for name, method in record.methods.items():
        assert [trial.number for trial in method.trials] == list(range(record.setup.trials))
        if method.note:  # of a method that was corrected since
            continue
        registered = METHODS[name]
        moved = {option for one in registered.corrections for option in one.defaults}  # since they were tuned
        fields = {key: field for key, field in registered.options.model_fields.items() if key not in moved}
        assert {key: value for key, value in method.trials[0].options.items() if key in fields} == json.loads(
            json.dumps({key: fields[key].default for key in method.trials[0].options if key in fields})
        )
        same = registered.is_deterministic(registered.options.model_validate(method.fixed))
        assert all(t.score.seeds == (1 if same else record.setup.seeds) for t in method.trials)
        assert method.trials[method.chosen].score.objective_mean == max(t.score.objective_mean for t in method.trials)
    text = record.model_dump_json()
    assert not any(word in text for word in ("/work", "/tmp", "/home"))


def test_published_presets_report_it():
    """Law: only what was tuned claims to have been; what was published is named for it."""
    for method in METHODS.values():
        assert all(name.startswith(("competition", "published")) for name in method.published)
        assert all(method.preset_source(name) == "as published" for name in method.published)
        tuned = set(method.presets) - set(method.published)
        assert tuned == {setting for setting in SETTINGS if method.name in TUNED[setting]}
