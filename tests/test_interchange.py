"""Outputs of other programs become a study: the same numbers, scored; what they do not say stays unknown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from evaluated import SIZES, SPLITS_DIGEST, evaluated_store, publish
from evaluated import draw_logits as draw
from others_files import (
    FORGET,
    LABELS,
    TEST,
    TRAIN,
    draw_logits,
    margins_of,
    write_datamodels,
    write_easydub,
    write_easydub_own,
    write_klom_oracle,
    write_klom_unlearned,
    write_lira,
)

from ray_unlearn.cli import main
from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.confidence import logit_scaled_confidence
from ray_unlearn.evaluation.evaluate import evaluate, read_scores
from ray_unlearn.evaluation.image_table import image_table
from ray_unlearn.evaluation.outputs import Outputs, read_outputs
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.evaluation.shadows import pairs_of
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.arrow import ipc_bytes, read_table
from ray_unlearn.store.membership import membership_matrix
from ray_unlearn.store.outputs import decode_margins
from ray_unlearn.store.splits import read_image_names
from ray_unlearn.study import Run, load_study, parse_study

RUNS = 8
RETRAINED, UNLEARNED = draw_logits(RUNS, 0), draw_logits(RUNS, 1, shift=2.0)
SETS = {
    "retain": np.setdiff1d(np.arange(TRAIN), FORGET),
    "forget": np.sort(FORGET),
    "test": np.arange(TRAIN, TRAIN + TEST),
}
FEW = "evaluation.resamples=10"


def store_in(folder: Path, name: str) -> StudyStore:
    return StudyStore(open_storage(str(folder)), name)


def outputs_of(folder: Path, name: str, population: str) -> Outputs:
    store = store_in(folder, name)
    return read_outputs(store, population, store.made(population))


def scored(folder: Path) -> Scores:
    study = load_study(folder / "study.yaml", [FEW])
    return evaluate(study, store_in(folder, study.name))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the same models in every format."""
    folder = tmp_path_factory.mktemp("given")
    np.save(folder / "forget.npy", FORGET)
    np.save(folder / "labels.npy", LABELS)
    np.save(folder / "retrained.npy", RETRAINED)
    np.save(folder / "scrub.npy", UNLEARNED)
    retrained, unlearned = margins_of(RETRAINED), margins_of(UNLEARNED)
    write_klom_oracle(folder / "oracle", retrained)
    write_klom_unlearned(folder / "scrub.pt", {1: retrained, 5: unlearned})
    write_easydub(folder / "easydub", retrained, unlearned)
    write_easydub_own(folder / "scrub.npz", unlearned)
    top_two = {name: _top_two(logits) for name, logits in {"retrained": RETRAINED, "scrub": UNLEARNED}.items()}
    masks = np.random.default_rng(3).random((RUNS, TRAIN)) < 0.5
    masks[:, FORGET] = False
    for name, margins in top_two.items():
        write_datamodels(folder / f"dm-{name}", margins, masks, np.arange(RUNS) != 2)
    return folder


def _top_two(logits: np.ndarray) -> np.ndarray:
    rows, others = np.arange(len(LABELS)), logits.copy()
    others[:, rows, LABELS] = -1000
    return logits[:, rows, LABELS] - others.max(-1)


ARGUMENTS: dict[str, list[str]] = {
    "klom": ["retrained={}/oracle", "scrub={}/scrub.pt", "--epoch", "5", "--forget", "{}/forget.npy"],
    "easydub": ["{}/easydub", "scrub={}/scrub.npz", "--labels", "{}/labels.npy"],
    "datamodels": ["retrained={}/dm-retrained", "scrub={}/dm-scrub", "--forget", "{}/forget.npy"],
    "logits": ["retrained={}/retrained.npy", "scrub={}/scrub.npy", "--forget", "{}/forget.npy"],
}


ARGUMENTS["logits"] += ["--labels", "{}/labels.npy", "--train", str(TRAIN)]


def imported(given: Path, form: str, folder: Path, *more: str) -> int:
    return main(["import", form, *(text.format(given) for text in ARGUMENTS[form]), "-o", str(folder), *more])


@pytest.fixture(scope="module")
def studies(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of each format."""
    folder = tmp_path_factory.mktemp("studies")
    for form in ARGUMENTS:
        assert imported(given, form, folder / form) == 0
    return folder


@pytest.mark.parametrize("form", ["klom", "easydub", "logits"])
def test_phi_is_that_of_the_models(studies: Path, form: str):
    """Law: whatever the format, phi of run r and image i is that of the logits; images are in their sets."""
    for population, logits in {"retrained": RETRAINED, "scrub": UNLEARNED}.items():
        found = outputs_of(studies / form, form, population)
        for split, columns in SETS.items():
            expected = logit_scaled_confidence(logits, LABELS)[:, columns]
            np.testing.assert_allclose(found.splits[split].phi_RN, expected, atol=2e-5)


def test_margins_keep_their_bits(studies: Path):
    """Law: a margin in the store is the number that the file held, in its type."""
    store = store_in(studies / "klom", "klom")
    record = store.made("scrub")[3]
    kind, splits = decode_margins(store.payload(Run(population="scrub", index=3), "outputs.arrow", record)) or (
        None,
        {},
    )
    assert kind == "log_odds"
    assert splits["forget"].margins_N.tobytes() == margins_of(UNLEARNED)[3, SETS["forget"]].tobytes()


def test_runs_that_are_not_completed_are_left_out(studies: Path):
    """Law: datamodels' row 2 was never trained; the others keep their row in their record."""
    records = store_in(studies / "datamodels", "datamodels").made("retrained")
    assert [record.options["row"] for record in records.values()] == [0, 1, 3, 4, 5, 6, 7]
    found = outputs_of(studies / "datamodels", "datamodels", "retrained").splits["test"]
    expected = RETRAINED[[0, 1, 3, 4, 5, 6, 7]][:, SETS["test"]].argmax(-1) == LABELS[SETS["test"]]
    assert np.array_equal(found.correct_RN, expected), "the next class's margin says whether the label is largest"


def test_a_record_has_the_file_and_nothing_invented(studies: Path, given: Path):
    """Law: sha256 of the source, its row; no seed, no time, no device."""
    record = store_in(studies / "klom", "klom").made("scrub")[3]
    sha256 = hashlib.sha256((given / "scrub.pt").read_bytes()).hexdigest()
    assert record.method == "imported"
    assert record.options == {"format": "klom", "files": {"scrub.pt": sha256}, "row": 3}
    assert (record.seeds, record.seconds, record.device, record.original_sha256) == ({}, {}, "", "")
    assert set(record.metrics) == {"retain_loss", "forget_loss", "test_loss"}, "log(1 + exp(-margin)); no accuracy"


def test_what_margins_do_not_say_is_not_known(studies: Path):
    """Law: no accuracy, score or cost of margins, and the reason; F, U-LiRA and KLOM are those of the logits."""
    plain, margins = scored(studies / "logits"), scored(studies / "klom")
    ours, theirs = margins.populations["scrub"], plain.populations["scrub"]
    assert ours.measures["forgetting_quality"].value == theirs.measures["forgetting_quality"].value
    same = [name for name in ours.measures if name.startswith(("klom", "u_lira_auc", "rmia_auc"))]
    assert len(same) > 6
    for name in (one for one in same if "validation" not in one):
        assert ours.measures[name].value == pytest.approx(theirs.measures[name].value, abs=1e-3)
    for name in ("score", "retain_ratio", "test_ratio", "tug_of_war"):
        assert theirs.measures[name].value is not None
        assert ours.measures[name].value is None
        assert "margins to all other classes" in ours.measures[name].missing
    assert ours.slices == ()
    assert ours.cost.seconds is ours.cost.relative is None
    assert any("seeds, recipe, originals and times are not known" in line for line in margins.warnings)


def test_top_two_margins_give_answers_and_no_probabilities(studies: Path):
    """Law: accuracies of datamodels are known, and attacks on probabilities are not."""
    found = scored(studies / "datamodels").populations["scrub"]
    kept = np.arange(RUNS) != 2
    expected = (UNLEARNED[kept][:, SETS["retain"]].argmax(-1) == LABELS[SETS["retain"]]).mean()
    retain = next(one for one in found.slices if (one.split, one.by) == ("retain", "all"))
    assert retain.accuracy.mean == pytest.approx(expected)
    assert retain.loss is None
    assert found.measures["retain_ratio"].value is not None
    assert "margins to the next class" in found.measures["rmia_auc"].missing


@pytest.mark.parametrize("form", ARGUMENTS)
def test_every_command_that_makes_nothing_works(studies: Path, form: str, capsys: pytest.CaptureFixture[str]):
    """Law: status, verify, evaluate and report exit with 0; generate says that the runs were imported."""
    study = str(studies / form / "study.yaml")
    for command in (["status"], ["verify"], ["evaluate", "--set", FEW], ["report"]):
        assert main([command[0], study, *command[1:]]) == 0, capsys.readouterr().err
    assert main(["generate", study, "--backend", "inline"]) == 2
    assert "other programs made these runs" in capsys.readouterr().err
    assert "not known" in (studies / form / form / "report.html").read_text() or form in ("logits", "easydub")


@pytest.mark.parametrize(("form", "said"), [("klom", "the logarithm of the summed"), ("datamodels", "the largest")])
def test_the_card_says_which_margin_it_is(studies: Path, form: str, said: str, tmp_path: Path):
    """Law: two numbers that are called margin are told apart."""
    assert main(["export", str(studies / form / "study.yaml"), str(tmp_path / "hub"), "--format", "hub"]) == 0
    text = (tmp_path / "hub" / "README.md").read_text()
    assert f"`margin` of retrained is the label's logit minus {said}" in text


def test_ids_are_those_of_cifar10(tmp_path: Path):
    """Law: 50,000 and 10,000 columns are CIFAR-10, named as the source `cifar10` names them."""
    margins = np.zeros((2, 60_000), np.float32)
    np.save(tmp_path / "a.npy", margins)
    np.save(tmp_path / "forget.npy", np.array([7, 3]))
    arguments = [f"retrained={tmp_path}/a.npy", "--forget", f"{tmp_path}/forget.npy", "-o", str(tmp_path / "out")]
    assert main(["import", "klom", *arguments]) == 0
    store = store_in(tmp_path / "out", "klom")
    names = read_image_names(store, str((store.held("retrained") or {})["identity"]["data"]["splits"]))
    assert names.ids["forget"] == ["cifar10-train-00003", "cifar10-train-00007"]
    assert names.ids["test"][:1] == ["cifar10-test-00000"]


Breaks = Callable[[Path], list[str]]


def _nan(folder: Path) -> list[str]:
    bad = RETRAINED.copy()
    bad[5, 2, 1] = np.nan
    np.save(folder / "bad.npy", bad)
    return ["logits", f"retrained={folder}/bad.npy", "--train", str(TRAIN)]


def _member(folder: Path) -> list[str]:
    masks = np.zeros((RUNS, TRAIN), np.bool_)
    masks[4, 9] = True
    write_datamodels(folder / "member", _top_two(RETRAINED), masks, np.ones(RUNS, np.bool_))
    return ["datamodels", f"retrained={folder}/member"]


def _test_alone(folder: Path) -> list[str]:
    masks = np.zeros((RUNS, TRAIN), np.bool_)
    write_datamodels(folder / "alone", _top_two(RETRAINED)[:, :TEST], masks, np.ones(RUNS, np.bool_))
    return ["datamodels", f"retrained={folder}/alone"]


def _pickle(folder: Path) -> list[str]:
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return ["logits", f"retrained={folder}/objects.npy"]


REFUSED: dict[str, tuple[Breaks, str]] = {
    "several epochs": (lambda f: ["klom", f"retrained={f}/oracle", f"scrub={f}/scrub.pt"], "holds 1, 5 (--epoch"),
    "NaN": (_nan, "run 5 holds NaN"),
    "a reference that saw a forget image": (_member, "run 4 was trained on forget image 9"),
    "margins of test images alone": (_test_alone, "do not show what models forgot"),
    "a pickle in an array": (_pickle, "cannot be read as NumPy's arrays"),
    "no name": (lambda f: ["klom", f"{f}/oracle"], "expected NAME=PATH"),
    "no such file": (lambda f: ["klom", f"retrained={f}/none"], "no such file or folder"),
    "no reference": (
        lambda f: ["klom", f"a={f}/oracle", f"b={f}/oracle"],
        "--reference retrained: no population of this name",
    ),
    "other images": (lambda f: ["klom", f"retrained={f}/oracle", f"scrub={f}/scrub.npy"], "expected [models, images]"),
    "an unknown number of training images": (
        lambda f: ["logits", f"retrained={f}/retrained.npy"],
        "--train: expected the number of training images",
    ),
    "no labels": (
        lambda f: ["logits", f"retrained={f}/retrained.npy", "--train", str(TRAIN)],
        "--labels FILE names them",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Law: what does not fit is one line, and no study is written."""
    make, expected = REFUSED[case]
    code = main(["import", *make(given), "--forget", f"{given}/forget.npy", "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert (code in (1, 2), expected in said, len(said.splitlines())) == (True, True, 1), said
    assert not (tmp_path / "out" / "study.yaml").exists()


def test_a_study_is_not_overwritten(studies: Path, given: Path, capsys: pytest.CaptureFixture[str]):
    """Law: a second import into the same folder is refused."""
    assert imported(given, "klom", studies / "klom") == 2
    assert "exists already" in capsys.readouterr().err


def test_scores_are_published(studies: Path):
    """Law: the scores of an imported study are read back as they were."""
    found = scored(studies / "easydub")
    assert read_scores(store_in(studies / "easydub", "easydub")).populations == found.populations
    assert set(found.populations) == {"retrained", "pretrained", "scrub"}


def test_shadows_of_lira_are_attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Law: keep.npy is the membership of every run; LiRA recognises it, and nobody else's halves are mixed in."""
    runs, rng = 16, np.random.default_rng(0)
    keep = np.stack([np.argsort(rng.random(runs)) < runs // 2 for _ in range(TRAIN)], axis=1)
    logits = draw_logits(runs, 4)
    logits[:, np.arange(TRAIN), LABELS[:TRAIN]] += 3 * keep
    folder = write_lira(tmp_path / "experiments", logits, keep)
    assert main(["import", "lira", str(folder), "-o", str(tmp_path / "out")]) == 0
    study, store = load_study(tmp_path / "out" / "study.yaml"), store_in(tmp_path / "out", "lira")
    assert "augmentation 0 of 2 is read, from 0" in capsys.readouterr().out
    order = [int(path.name.partition("-")[2].partition("_")[0]) for path in sorted(folder.glob("experiment-*"))]
    assert np.array_equal(membership_matrix(store, "shadows"), keep[order])
    found = outputs_of(tmp_path / "out", "lira", "shadows").splits["retain"]
    assert np.allclose(found.phi_RN, logit_scaled_confidence(logits[order][:, :TRAIN], LABELS[:TRAIN]), atol=1e-5)
    pairs = list(pairs_of(store, "shadows", store.made("shadows"), {"retain": TRAIN, "forget": 0}))
    inside = np.stack([one["retain"].inside_N for one in pairs])
    for image in range(TRAIN):
        assert sorted(inside[:, image]) == sorted(found.phi_RN[keep[order][:, image], image])
    scores = evaluate(study, store)
    attack = scores.populations["shadows"].attacks["lira_online"]
    assert attack.auc is not None
    assert attack.auc > 0.75
    assert attack.shadows <= runs - 2, "the models under attack are no shadows of themselves"
    assert scores.populations["shadows"].memorisation is not None
    capsys.readouterr()
    assert main(["report", str(tmp_path / "out" / "study.yaml"), "--format", "markdown"]) == 0
    assert (tmp_path / "out" / "lira" / "report.md").read_text().count("| shadows the last pair | LiRA online |") == 1
    assert main(["verify", str(tmp_path / "out" / "study.yaml")]) == 0


def test_populations_of_two_stores_are_compared(tmp_path: Path):
    """Law: a reference of another store gives the scores that it gives in the study's own."""
    counts = {"retrained": 4, "shifted": 3}
    study, store = evaluated_store(tmp_path / "a", counts)
    both, table = evaluate(study, store), image_table(study, store)
    splits = store.layout.splits(SPLITS_DIGEST)
    target = tmp_path / "c" / "elsewhere"
    target.mkdir(parents=True)
    (tmp_path / "a" / study.name / "retrained").rename(target / "retrained")
    (target / "splits").mkdir()
    (target / "splits" / Path(splits).name).write_bytes(store.storage.read(splits))
    tree = study.model_dump(mode="json")
    del tree["populations"]["retrained"]
    tree["evaluation"] |= {"reference": "oracle", "populations": {"oracle": str(target / "retrained")}}
    apart = evaluate(parse_study(tree, where="a test"), store)
    again = image_table(parse_study(tree, where="a test"), store)
    assert set(again["population"]) == {"original", "shifted", "oracle"}
    of_one, of_two = (found[found["population"] == "shifted"]["epsilon"].tolist() for found in (table, again))
    assert of_one == of_two
    assert apart.reference == "oracle"
    ours, theirs = (scores.populations["shifted"] for scores in (apart, both))
    assert ours.measures["forgetting_quality"].value == theirs.measures["forgetting_quality"].value
    assert ours.measures["tug_of_war"].value == pytest.approx(theirs.measures["tug_of_war"].value)
    assert apart.populations["oracle"].role == "reference"
    assert not (target / "retrained" / "scores.json").exists()


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ({"data": {"splits": "cd" * 32, "classes": 3}}, "retain: 30 and 30 images; number 4 is other and retain-004"),
        ({"data": {"splits": SPLITS_DIGEST, "classes": 7}}, "classes: 3 -> 7"),
        ({"outputs": {"splits": ["forget"]}}, "outputs.splits"),
    ],
)
def test_populations_of_other_images_are_refused(tmp_path: Path, identity: dict[str, dict[str, object]], expected: str):
    """Law: another split, another number of classes or other outputs are named."""
    study, store = evaluated_store(tmp_path / "a", {"retrained": 3, "finetune": 3})
    for name in ("original", "retrained", "finetune"):
        publish(
            store,
            name,
            0,
            draw(0),
            {"data": {"splits": SPLITS_DIGEST, "classes": 3}, "outputs": {"splits": list(SIZES)}},
        )
    _, away = evaluated_store(tmp_path / "b", {"retrained": 3, "scrub": 3})
    default = {"data": {"splits": SPLITS_DIGEST, "classes": 3}, "outputs": {"splits": list(SIZES)}}
    publish(away, "scrub", 0, draw(0), default | identity)
    table = read_table(store.storage.read(store.layout.splits(SPLITS_DIGEST)))
    ids = [("other" if one == "retain-004" else one) for one in table.column("image_id").to_pylist()]
    moved = table.set_column(table.column_names.index("image_id"), "image_id", pa.array(ids))
    away.storage.publish_file(away.layout.splits("cd" * 32), ipc_bytes(moved))
    tree = study.model_dump(mode="json")
    tree["evaluation"]["populations"] = {"theirs": f"{away.uri}/scrub"}
    with pytest.raises(StoreError, match=re.escape(expected)):
        evaluate(parse_study(tree, where="a test"), store)


def test_a_folder_that_is_no_population_is_refused(tmp_path: Path):
    """Law: the message names the key, the folder and what was expected."""
    study, store = evaluated_store(tmp_path, {"retrained": 3, "finetune": 3})
    tree = study.model_dump(mode="json")
    tree["evaluation"]["populations"] = {"theirs": f"{tmp_path}/none/at/all"}
    with pytest.raises(StoreError, match=r"evaluation\.populations\.theirs: .*/none/at/all: holds no finished run"):
        evaluate(parse_study(tree, where="a test"), store)
