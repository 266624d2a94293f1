"""One deletion request: what is made, what is refused, and what the page states."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import ray_unlearn as ru
from ray_unlearn.cli import main
from ray_unlearn.deletion import Deletion, Request, files, making, original, words
from ray_unlearn.deletion.findings import Findings, _larger
from ray_unlearn.deletion.request import budget_s, write
from ray_unlearn.errors import ModelError, PopulationChanged, StudyError
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.generation import Summary
from ray_unlearn.models import small_cnn
from ray_unlearn.schedule.events import Ended
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study import Run, load_study
from ray_unlearn.wording import percent

TRAINING = {"epochs": 8, "lr": 1e-2, "batch_size": 16, "schedule": "constant", "weight_decay": 0.0}
FORGOTTEN = ["dark/00.png", "dark/01.png", "light/02.png"]


def pictures(folder: Path, count: int, seed: int) -> None:
    """Write dark and light pictures of noise: two classes that a net learns in seconds."""
    rng = np.random.default_rng(seed)
    for name, middle in (("dark", 90), ("light", 160)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(rng.normal(middle, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, test images, a list to delete, and a model that was trained on the photos."""
    folder = tmp_path_factory.mktemp("request")
    pictures(folder / "photos", 30, 0)
    pictures(folder / "test", 20, 1)
    (folder / "delete.csv").write_text("\n".join(["image_id", *FORGOTTEN]) + "\n")
    study = {
        "name": "made",
        "storage": ".",
        "data": {"train": "photos", "test": "test", "image_size": 8, "forget": {"ids": "delete.csv"}},
        "model": {"arch": "small_cnn"},
        "training": TRAINING,
        "populations": {"original": {"method": "train", "on": "train"}},
    }
    (folder / "made.yaml").write_text(yaml.safe_dump(study))
    assert ru.generate(load_study(folder / "made.yaml"), backend="inline").exit_code == 0
    exported = [str(folder / "made.yaml"), str(folder / "model.pth"), "--population", "original", "--run", "0"]
    assert main(["export", *exported]) == 0
    return folder


Ask = Callable[..., Deletion]


@pytest.fixture
def ask(place: Path, tmp_path: Path) -> Ask:
    """Return a function that makes the request in a folder of the test's own, in this process."""

    def make(**changes: Any) -> Deletion:
        values: dict[str, Any] = {
            "model": str(place / "model.pth"),
            "arch": "small_cnn",
            "data": str(place / "photos"),
            "test": str(place / "test"),
            "ids": str(place / "delete.csv"),
            "image_size": 8,
            "method": "finetune",
            "training": TRAINING,
            "out": tmp_path / "out",
            "budget": "10m",
            "backend": "inline",
            "most": 1,
            "log": lambda line: None,
        }
        return ru.forget(**(values | changes))

    return make


def shown(markup: str) -> np.ndarray:
    """Return the first picture of a piece of a page."""
    data = markup.split("data:image/png;base64,")[1].split('"', maxsplit=1)[0]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def check_images_of_the_report(study: Path, place: Path) -> None:
    """Law: pictures of the images forgotten worst are on the report where they are asked for, and only there."""
    page = study.parent / "with_images.html"
    assert "data:image" not in (study.parent / "deletion/report.html").read_text()
    assert main(["report", str(study), "--images", "--output", str(page)]) == 0
    cells = page.read_text().split('<div class="thumbs">')[1].split("</figure>")[0].split("<div>")[1:]
    images = ru.results(load_study(study)).images.query("population == 'unlearned'")
    order = images.sort_values("epsilon", ascending=False, kind="stable").image_id.tolist()
    assert [re.search(r"(\w+/\d+\.png)</small>", cell)[1] for cell in cells] == order  # type: ignore[index]
    for cell, name in zip(cells, order, strict=True):
        np.testing.assert_array_equal(shown(cell), np.asarray(Image.open(place / "photos" / name)))
    assert main(["report", str(study), "--images", "--format", "csv"]) == 2
    ru.report(load_study(study), output=page.with_name("by_call.html"), images=True)
    assert page.with_name("by_call.html").read_text() == page.read_text()
    with pytest.raises(StudyError, match="expected the format html; found csv"):
        ru.report(load_study(study), "csv", images=True)


def check_it_is_the_model_that_is_described(found: Deletion, store: StudyStore) -> None:
    """Law: accuracy and confidence of `it` are those of the file that is handed out, and the mean is called a mean."""
    splits = read_outputs(store, "unlearned", store.made("unlearned")).splits
    first, mean = (percent(each) for each in (splits["test"].accuracy_R[0], splits["test"].accuracy_R.mean()))
    verdict, (confidence, *_) = words.verdict(found.findings), words.reasons(found.findings)
    assert re.search(rf"(to|at) {first} % \(mean of all 5 unlearned models: {mean} %\)\.$", verdict)
    ours_RE = np.exp(-splits["forget"].loss_RN)
    mean = f"(mean of all 5 unlearned models: {percent(ours_RE.mean())} %)"
    assert f"{percent(ours_RE[0].mean())} % after {mean}" in confidence


def check_a_later_request(ask: Ask, place: Path, tmp_path: Path) -> None:
    """Law: a request for the model that an earlier one wrote names that one's images, which it would learn again;
    a list that was edited in place is another request."""
    for name, listed in (("one", [FORGOTTEN[0], "light/05.png"]), ("all", [*FORGOTTEN, "light/05.png"])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["image_id", *listed]) + "\n")
    asked = Request(
        model=str(tmp_path / "out/model.pth"), arch="small_cnn", data=str(place / "photos"), ids="", test="x"
    )
    files = [write(replace(asked, ids=str(tmp_path / f"{name}.csv")), tmp_path / name) for name in ("one", "all")]
    (line,), none = (original.warnings(load_study(file)) for file in files)
    assert "model.pth was made to forget 3 images" in line
    assert "2 of them, such as 'dark/01.png', are not in this list" in line
    assert none == original.warnings(load_study(tmp_path / "out/study.yaml")) == []
    other = tmp_path / "out/study.yaml"
    other.write_text(other.read_text().replace(str(place / "delete.csv"), str(tmp_path / "one.csv")))
    with pytest.raises(PopulationChanged, match="its models were made for another request: the list, the images, or"):
        making.forget_study(other, seconds=1, backend="inline", log=lambda line: None)


def test_a_request_leaves_a_model_its_hash_and_a_page_with_every_image(ask: Ask, place: Path, tmp_path: Path, capsys):
    """Law: the model is unlearned run 0 in both files; the page names each image, what was tested, and its limits."""
    said: list[str] = []
    found = ask(most=5, log=said.append)
    assert capsys.readouterr().err.count("warning: data.forget: 3 images") == 1, "once, not for each stage"
    assert said[0].startswith("model.pth: accuracy ")
    assert "% on 57 retained images, " in said[0]
    assert "% on 40 held-out images" in said[0]
    out = tmp_path / "out"
    published = load_file(out / "deletion/unlearned/00000/model.safetensors")
    state = torch.load(found.model, weights_only=True)
    small_cnn(2).load_state_dict(state, strict=True)
    assert all(torch.equal(state[name], published[name]) for name in published)
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())  # type: ignore[misc]
    for name in ("model.pth", "model.safetensors"):
        assert sums[name] == hashlib.sha256((out / name).read_bytes()).hexdigest()
    page = found.page.read_text()
    for name in FORGOTTEN:
        assert page.count(f">{name}<") == 1
    assert "5 unlearned models against 5 retrained" in page
    assert "no statement about legal duties" in page
    assert sums["model.pth"] in page
    assert "<img" not in page
    assert [one.image_id for one in found.findings.images] == FORGOTTEN
    assert all(one.epsilon is not None for one in found.findings.images)
    assert found._repr_html_().startswith("<iframe srcdoc=")
    check_it_is_the_model_that_is_described(found, StudyStore(open_storage(str(out)), "deletion"))
    check_images_of_the_report(out / "study.yaml", place)
    again = ask(most=5)  # the same request in the same folder: nothing is made, the same is written
    assert again.page.read_text() == page
    study = load_study(out / "study.yaml")
    assert {study.populations[name].count for name in ("unlearned", "retrained")} == {5}
    assert main(["forget", str(out / "study.yaml"), "--budget", "1s", "--backend", "inline"]) == 0
    with pytest.raises(StudyError, match=r"another request is there \(populations.unlearned.method: \"finetune\" ->"):
        ask(method="scrub")
    check_a_later_request(ask, place, tmp_path)


def test_without_retrained_models_there_is_a_page_that_claims_nothing(ask: Ask):
    """Law: where the budget allows no retraining, before and after are shown, and what more time would add."""
    found = ask(budget="2s", training=TRAINING | {"epochs": 200_000})
    page = found.page.read_text()
    assert "so this is no evidence of forgetting yet" in words.verdict(found.findings)
    assert "No model was retrained: one would take about" in page
    assert "Nothing was tested, with 1 unlearned model and 0 retrained" in page
    assert found.findings.images[0].retrained is None
    assert "not compared" in page


def test_too_few_models_for_a_test_are_said_with_the_budget_that_is_enough(ask: Ask, monkeypatch: pytest.MonkeyPatch):
    """Law: the page and the progress name a budget that the command takes."""
    monkeypatch.setattr(making, "_retraining_s", lambda *_: -math.inf)  # one pair is tried, whatever is left
    said: list[str] = []
    page = ask(budget="0.01s", most=5, log=said.append).page.read_text()
    budget = re.search(r"1 of each are too few for a test; --budget (\d+m) is about enough for 5", said[-1] + page)
    assert budget is not None
    assert budget_s(budget[1]) >= 120
    assert "are too few for a test" in page


def test_thumbnails_are_the_forgotten_images(ask: Ask, place: Path):
    """Law: on request, each image is on the page as the model sees it, beside its own name."""
    page = ask(budget="1s", thumbnails=True).page.read_text()
    rows = page.split("<tr>")
    for name in FORGOTTEN:
        (row,) = [one for one in rows if f">{name}<" in one]
        np.testing.assert_array_equal(shown(row), np.asarray(Image.open(place / "photos" / name)))


def test_a_model_that_is_not_what_it_is_taken_for_is_refused(ask: Ask, tmp_path: Path):
    """Law: accuracy near chance, or far from the expected one, ends the request before anything is unlearned."""
    torch.manual_seed(0)
    torch.save(small_cnn(2).state_dict(), tmp_path / "untrained.pth")
    with pytest.raises(ModelError, match=r"untrained.pth: accuracy .* near chance .* check data.image_size"):
        ask(model=str(tmp_path / "untrained.pth"), out=tmp_path / "a", expect_accuracy=0.9)
    with pytest.raises(ModelError, match=r"expected 30.0 % on held-out images \(expect_accuracy\)"):
        ask(expect_accuracy=0.3, out=tmp_path / "b")
    wrong = {"mean": [0.9, 0.9, 0.9], "std": [0.25, 0.25, 0.25]}
    with pytest.raises(ModelError, match=r"is \d+\.\d % with this data.normalize, and .* give --normalize 'standard'"):
        ask(normalize=wrong, out=tmp_path / "c")
    assert not list(tmp_path.glob("*/deletion/original/*"))
    assert not list(tmp_path.glob("*/deletion/unlearned/*/record.json"))
    standard = "{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"
    assert ask(normalize=standard, out=tmp_path / "c", budget="1s").model.exists()  # the corrected one, same folder


def test_the_original_is_never_written_over(ask: Ask, place: Path, tmp_path: Path):
    """Law: an original where the unlearned model would be written is refused before any work, and stays as it is."""
    original = tmp_path / "out/model.pth"
    original.parent.mkdir()
    shutil.copy(place / "model.pth", original)
    with pytest.raises(StudyError, match=r"model.pth: the unlearned model would be written over the original"):
        ask(model=str(original))
    assert original.read_bytes() == (place / "model.pth").read_bytes()
    assert not (tmp_path / "out/deletion").exists()


def test_a_file_of_another_origin_is_never_written_over(ask: Ask, tmp_path: Path):
    """Law: a model that the request did not write, or that was changed since, stays; the refusal says what to do."""
    strange = tmp_path / "out/model.safetensors"
    strange.parent.mkdir()
    strange.write_bytes(b"of another request")
    with pytest.raises(
        StudyError, match=r"out/model.safetensors: the unlearned model would be written over it, but SHA"
    ):
        ask(budget="1s")
    assert strange.read_bytes() == b"of another request"
    assert not (tmp_path / "out/deletion").exists()
    strange.unlink()
    ours = ask(budget="1s").model
    assert ask(budget="1s").model.read_bytes() == ours.read_bytes()  # its own file it may replace
    ours.write_bytes(b"the user's, saved under the same name")
    with pytest.raises(StudyError, match=r"out/model.pth: .* move it away, or choose another folder"):
        ask(budget="1s")
    assert ours.read_bytes() == b"the user's, saved under the same name"


@pytest.mark.parametrize("survivors", range(5))
def test_a_request_killed_while_its_files_are_replaced_is_repeated(
    survivors: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Law: whichever of the renames is the last before the kill, the request may write its files again."""
    contents = {".pth": b"first", ".safetensors": b"FIRST"}
    monkeypatch.setattr(files, "model_content", lambda store, run, ending: contents[ending])
    store, run = StudyStore(open_storage(str(tmp_path)), "made"), Run(population="unlearned", index=0)
    files.write_models(store, run, tmp_path)
    contents = {".pth": b"second", ".safetensors": b"SECOND"}
    left, replace_file = survivors, Path.replace

    def kill(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(KeyboardInterrupt) if survivors < 4 else nullcontext():
            files.write_models(store, run, tmp_path)
    files.check_replaceable(load_study(place / "made.yaml"), tmp_path)
    written = files.write_models(store, run, tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == "".join(f"{sha256}  {name}\n" for name, sha256 in written)
    assert (tmp_path / "model.pth").read_bytes() == b"second"


def test_retrained_models_that_fail_leave_a_page_of_what_is_there(ask: Ask, tmp_path: Path, capsys):
    """Law: the page states the evidence that there is, and why there is no more; the command ends with 3."""
    found = ask(most=2, training=TRAINING | {"lr": 1e9, "weight_decay": 1.0})
    assert "could not be made, so this is the evidence of those that were made" in found.failed
    assert f"`ray-unlearn logs {tmp_path}/out/study.yaml retrained/00000` shows the traceback" in found.failed
    page = found.page.read_text()
    assert "could not be made, so this is the evidence" in page
    assert "so this is no evidence of forgetting yet" in page
    assert found.model.exists()
    assert main(["forget", f"{tmp_path}/out/study.yaml", "--budget", "10m", "--backend", "inline"]) == 3
    captured = capsys.readouterr()
    assert "deletion.html" in captured.out
    assert "could not be made" in captured.err


def test_a_population_that_ends_early_counts_the_models_that_it_lacks():
    """Law: where no run failed, because all of a script's are the same, the count is of the runs that were left out."""
    left = [Run(population="unlearned", index=index) for index in (3, 4)]
    summary = Summary(planned=10, already=0, made=8, ended=(Ended("unlearned", left, "all are the same"),))
    said = making._ended_early(Path("study.yaml"), summary)
    assert said.startswith("2 models could not be made, so ")
    assert "no more were tried: all are the same; the same command" in said


def test_a_refused_value_leaves_the_folder_to_the_corrected_request(ask: Ask, place: Path, tmp_path: Path, capsys):
    """Law: the refusal names the key and writes nothing; keys inside `training`'s blocks are taken, too."""
    out = tmp_path / "out"
    with pytest.raises(StudyError, match=r"^the request: data\.normalize: input should be 'raw', 'unit' or 'standard'"):
        ask(normalize="foo")
    assert list(out.iterdir()) == []
    values = {"model": "model.pth", "data": "photos", "test": "test", "ids": "delete.csv"}
    options = [word for name, file in values.items() for word in (f"--{name}", str(place / file))]
    options += ["--arch", "small_cnn", "--image-size", "8", "--method", "finetune", "--backend", "inline"]
    settings = ["--set", "training.epochs=200000", "--set", "training.augment.flip=true"]
    assert main(["forget", *options, *settings, "-o", str(out), "--budget", "1s"]) == 0, capsys.readouterr().err
    training = load_study(out / "study.yaml").training
    assert (training.epochs, training.augment.flip) == (200_000, True)
    assert "--set" not in capsys.readouterr().out


def test_the_command_that_repeats_a_request_names_its_file_and_overrides(
    ask: Ask, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Law: the closing line repeats the request under the name that its file has, with the values that were set."""
    assert ask(budget="1s").lines[-1].endswith(f"`ray-unlearn forget {tmp_path}/out/study.yaml` repeats it")
    mine = tmp_path / "mine/request.yaml"
    mine.parent.mkdir()
    shutil.copy(tmp_path / "out/study.yaml", mine)
    setting = ["--set", "training.epochs=200000"]
    assert main(["forget", str(mine), *setting, "--budget", "1s", "--backend", "inline"]) == 0
    assert f"`ray-unlearn forget {mine} --set training.epochs=200000` repeats it" in capsys.readouterr().out
    assert f"{mine} --set training.epochs=200000 --budget 2h" in (mine.parent / "deletion.html").read_text()


def test_held_out_images_that_the_model_was_trained_on_are_warned_of(ask: Ask):
    """Law: without test images a tenth is held out, and the page says what that means; `say` is `log`, too."""
    said: list[str] = []
    found = ask(test=None, budget="1s", say=said.append)
    assert any("the original was trained on them" in line for line in said)
    assert "accuracy on them measures memory" in found.page.read_text()


def test_the_template_is_the_form_of_a_request(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Law: `init --template deletion` has the keys of the file that `forget` writes, and `forget` reads it."""
    assert main(["init", str(tmp_path / "request.yaml"), "--template", "deletion"]) == 0
    assert "ray-unlearn forget" in capsys.readouterr().out
    template = yaml.safe_load((tmp_path / "request.yaml").read_text())
    written = yaml.safe_load(Request(model="a", arch="b", data="c", ids="d").text())
    assert {key: sorted(value) if isinstance(value, dict) else value for key, value in template.items()} == {
        key: sorted(value) if isinstance(value, dict) else value for key, value in written.items()
    } | {"training": sorted(template["training"])}
    assert main(["forget", str(tmp_path / "request.yaml")]) == 1
    assert f"{tmp_path}/original.pth: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "m.pth"], "--arch, --data, --ids missing; expected --model, --arch, --data and --ids, or"),
        (["x.yaml", "--model", "m.pth"], "found both x.yaml and --model"),
        (["x.yaml", "--image-size", "64", "-o", "out"], "found both x.yaml and --image-size, --out"),
        (["--budget", "soon"], "--budget soon: expected a time such as 90s, 30m or 1h30m"),
    ],
)
def test_a_wrong_command_is_refused(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture):
    """Law: one line names what is missing."""
    assert main(["forget", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_another_study_is_no_request(ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Law: a study without an imported original is refused with the form that is expected; none is written over."""
    assert main(["init", str(tmp_path / "study.yaml")]) == 0
    theirs = (tmp_path / "study.yaml").read_text()
    with pytest.raises(StudyError, match=r"study\.yaml: another request is there .*; choose another folder"):
        ask(out=tmp_path)
    assert (tmp_path / "study.yaml").read_text() == theirs
    assert main(["forget", str(tmp_path / "study.yaml")]) == 2
    assert "expected the populations original (with weights: FILE), unlearned and retrained" in capsys.readouterr().err


def test_times_are_read():
    """Law: units add up."""
    assert [budget_s(text) for text in ("90s", "30m", "1h30m", "1.5h")] == [90, 1800, 5400, 5400]


def test_pairs_are_counted_by_hand():
    """Law: of the pairs (1, 0), (1, 1), (1, 2), (3, 0), (3, 1), (3, 2), four and a half have the larger first."""
    assert _larger(np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0])) == pytest.approx(4.5 / 6)


def test_the_verdict_follows_the_test_and_names_lost_accuracy(ask: Ask):
    """Law: a small p is "not forgotten", a large one "no difference"; fewer than five runs are no evidence."""
    found: Findings = ask(most=5).findings
    assert found.scores is not None
    tests = {name: one.model_copy(update={"p": 0.01, "adjusted": 0.02}) for name, one in found.scores.tests.items()}
    apart = replace(found, scores=found.scores.model_copy(update={"tests": tests}))
    sure, unsure = (replace(found.sides["unlearned"], confidence=value) for value in (0.99, 0.0))
    assert words.verdict(replace(apart, sides=found.sides | {"unlearned": sure})).startswith(
        "Not forgotten as if never"
    )
    assert words.verdict(replace(apart, sides=found.sides | {"unlearned": unsure})).startswith(
        "Changed beyond forgetting"
    )
    assert words.verdict(replace(apart, sides=found.sides | {"unlearned": found.sides["original"]})).endswith(
        f"stayed at {100 * found.sides['original'].accuracy['test']:.1f} %."
    )
    equal = replace(found.sides["unlearned"], confidence=found.sides["retrained"].confidence)
    rounded = [words.reasons(replace(apart, sides=found.sides | {"unlearned": one})) for one in (equal, sure)]
    assert ["log odds" in " ".join(one) for one in rounded] == [True, False]
    alike = {name: one.model_copy(update={"p": 0.5, "adjusted": 0.9}) for name, one in tests.items()}
    same = replace(found, scores=found.scores.model_copy(update={"tests": alike}))
    assert words.verdict(same).startswith("No difference was found")
    assert "would have shown a difference of" in " ".join(words.tested(same))
    after = replace(found.sides["unlearned"], first_test=0.5)
    costly = replace(same, sides=found.sides | {"unlearned": after})
    assert "It paid with accuracy" in words.verdict(costly)
    few = replace(apart, sides=found.sides | {"retrained": replace(found.sides["retrained"], runs=4)})
    assert "no evidence of forgetting yet" in words.verdict(few)
