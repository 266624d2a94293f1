"""The leaderboard: methods x studies, places that admit ties, and rows from other people's packed populations."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from evaluated import SPLITS_DIGEST, draw_logits, evaluated_store, leave_fits_out, publish, study_of
from scored import METHODS, make_scores

from ray_unlearn.cli import main
from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.evaluate import evaluate, read_scores, save
from ray_unlearn.evaluation.looks import Looks
from ray_unlearn.evaluation.scores import Rank
from ray_unlearn.interchange.added import with_added
from ray_unlearn.interchange.hub import export_hub
from ray_unlearn.interchange.packed import check_same_study, read_pack, unpack
from ray_unlearn.report.leaderboard import Entry, board_table, leaderboard_markdown, leaderboard_page
from ray_unlearn.report.ranking import null_of
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study.identity import digest
from ray_unlearn.wording import MISSING

COUNTS = {"retrained": 12, "near": 6}
SHIFTS = {"near": 0.1, "mine": -6.0}
SHARED = {"data": {"splits": SPLITS_DIGEST, "classes": 3}, "outputs": {"splits": ["retain", "forget", "test"]}}
LINEAGE = {"originals": 1, "model": {"arch": "small_cnn"}, "seed": 0}


def shared(name: str) -> dict[str, object]:
    """Return the identity of a population of the study."""
    own: dict[str, object] = {**SHARED, "name": name}
    lineage = {**LINEAGE, "original_digest": digest({**SHARED, "name": "original"})}
    return own if name in ("original", "retrained") else own | lineage


def publish_runs(store: StudyStore, population: str, count: int) -> None:
    for index in range(count):
        shutil.rmtree(Path(store.uri) / population / f"{index:05d}", ignore_errors=True)
        logits = draw_logits(sum(map(ord, population)) * 100 + index, shift=SHIFTS.get(population, 0.0))
        publish(store, population, index, logits, shared(population), digest=digest(shared(population)))


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Leave out what is not on the board."""
    with pytest.MonkeyPatch.context() as patch:
        leave_fits_out(patch)
        yield


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyStore, StudyStore, Path]:
    """Two evaluated studies, and a packed folder of a third party that has one more population of the first."""
    folder = tmp_path_factory.mktemp("board")
    study, first = evaluated_store(folder / "a", COUNTS, name="first")
    for population, count in {"original": 1, **COUNTS}.items():
        publish_runs(first, population, count)
    evaluate(study, first)
    shutil.copytree(folder / "a", folder / "c")
    wider = study_of(folder / "c", COUNTS | {"mine": 6}, name="first")
    third = StudyStore(open_storage(str(folder / "c")), "first")
    publish_runs(third, "mine", 6)
    evaluate(wider, third)
    pack = folder / "pack"
    export_hub(third, wider, [*COUNTS, "original", "mine"], pack)
    second = StudyStore(open_storage(str(folder / "b")), "second")
    save(second, make_scores(study="second"))
    return first, second, pack


def test_each_cell_has_its_n_its_interval_and_its_null(board: tuple[StudyStore, StudyStore, Path]):
    """Law: a cell of a study shows what its scores hold: value, N, interval, null, places and cost."""
    scores = read_scores(board[0])
    table = board_table([Entry(scores), Entry(read_scores(board[1]))])
    rows = {row[0].text: row for row in table.rows}
    assert next(iter(rows)) == "retraining itself"
    assert table.columns[1].unit == "score, parity mode, 1 original"
    assert {*rows} == {"retraining itself", "near", *METHODS}
    found = scores.populations["near"].measures["score"]
    cell, place = rows["near"][1:3]
    assert cell.value == found.value
    assert found.n == 6
    assert re.fullmatch(r"\[[\d.]+, [\d.]+\]", cell.interval)
    assert cell.small == (cell.interval, f"null {found.null:.3f}, N 6")
    assert place.text == "1"
    assert place.notes == ("cost 0.1",)
    assert rows["near"][3].text == MISSING
    null = null_of(scores, "score")
    assert null is not None
    assert rows["retraining itself"][1].value == null.null


def test_places_that_overlap_are_shown_as_the_same_set(board: tuple[StudyStore, StudyStore, Path]):
    """Law: where the runs do not decide, both methods have the places 1-2, and no order between them is claimed."""
    scores = make_scores()
    ranks = {name: Rank(best=1, worst=2, low=0.0, high=1.0) for name in ("finetune", "kookmin")}
    tied = scores.model_copy(update={"ranks": {"score": ranks}})
    rows = {row[0].text: row for row in board_table([Entry(tied)]).rows}
    assert rows["kookmin"][2].text == rows["finetune"][2].text == "1-2"
    without = scores.model_copy(update={"ranks": {}})
    rows = {row[0].text: row for row in board_table([Entry(without)]).rows}
    assert rows["kookmin"][2].text == MISSING
    assert "no place" in rows["kookmin"][2].notes[-1]


def test_intervals_hold_for_all_methods_of_a_study_at_once():
    """Law: of several methods beside each other, each has the interval that holds for the luckiest, too."""
    ranks = {name: Rank(best=1, worst=2, low=0.01, high=0.99) for name in ("finetune", "kookmin")}
    several = make_scores().model_copy(update={"ranks": {"score": ranks}})
    rows = {row[0].text: row for row in board_table([Entry(several)]).rows}
    assert rows["kookmin"][1].interval == "[0.010, 0.990]"
    own = make_scores().populations["kookmin"].measures["score"]
    rows = {row[0].text: row for row in board_table([Entry(make_scores().model_copy(update={"ranks": {}}))]).rows}
    assert rows["kookmin"][1].interval == f"[{own.low:.3f}, {own.high:.3f}]"


def test_the_command_writes_a_page_and_markdown(
    board: tuple[StudyStore, StudyStore, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Law: the page is one file that loads nothing and is the same each time; Markdown has the same numbers."""
    stores = [f"{board[0].storage.uri}/first", f"{board[1].storage.uri}/second"]
    for name in ("one.html", "two.html", "board.md"):
        assert main(["leaderboard", *stores, "-o", str(tmp_path / name)]) == 0
    page = (tmp_path / "one.html").read_text()
    assert page == (tmp_path / "two.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="', page)
    for text in ("first", "second", "near", "kookmin", "retraining itself"):
        assert text in page
    scores = read_scores(board[0])
    assert f"{scores.populations['near'].measures['score'].value:.3f}" in (tmp_path / "board.md").read_text()
    assert main(["leaderboard", stores[0], stores[0], "-o", str(tmp_path / "x.md")]) == 1
    assert main(["leaderboard", stores[0], "-o", str(tmp_path / "x.pdf")]) == 2
    assert "named twice" in capsys.readouterr().err


def test_a_row_is_added_from_packed_populations(board: tuple[StudyStore, StudyStore, Path], tmp_path: Path):
    """Law: a packed population gets the score that it has in its own store, a place among all, and is marked; it takes
    no look of the study's.
    """
    first, second, pack = board
    before, taken = first.storage.read(first.layout.scores_json), Looks.read(first)
    scores, added = with_added(first, [read_pack(pack)])
    assert added == {"mine"}
    theirs = read_scores(StudyStore(open_storage(str(pack.parent / "c")), "first"))
    assert scores.populations["mine"].measures["score"] == theirs.populations["mine"].measures["score"]
    assert {*scores.ranks["score"]} == {"near", "mine"}
    assert scores.ranks["score"]["near"].best == 1
    assert first.storage.read(first.layout.scores_json) == before
    assert scores.populations["mine"].look is not None
    assert Looks.read(first) == taken  # a look at it is none of the study's
    text = leaderboard_markdown([Entry(scores, added), Entry(read_scores(second))])
    assert "mine finetune, added from packed populations" in text
    assert "mine" in leaderboard_page([Entry(scores, added)])
    plain = StudyStore(open_storage(str(shutil.copytree(first.storage.uri, tmp_path / "plain"))), "first")
    study = json.loads(plain.storage.read(plain.layout.study_json)) | {"evaluation": None}
    plain.storage.publish_file(plain.layout.study_json, json.dumps(study).encode())
    found = with_added(plain, [read_pack(pack)])[0].populations["mine"]  # the reference is the default one
    assert found.measures["score"].value == theirs.populations["mine"].measures["score"].value


def test_a_packed_folder_gives_the_store_back(board: tuple[StudyStore, StudyStore, Path], tmp_path: Path):
    """Law: outputs have the bytes that were packed; a changed number is refused, with its run."""
    first, _, pack = board
    store = unpack(read_pack(pack), ["near"], str(tmp_path / "back"))
    for index in range(6):
        file = f"near/{index:05d}/outputs.arrow"
        assert (tmp_path / "back" / "first" / file).read_bytes() == (Path(first.uri) / file).read_bytes()
    assert store.made("near")[0].host == ""
    changed = shutil.copytree(pack, tmp_path / "changed")
    file = next((changed / "outputs" / "near").glob("*.parquet"))
    table = pq.read_table(file)
    logits = [[value + 1 for value in row] for row in table["logits"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("logits"), "logits", [logits]), file)
    with pytest.raises(StoreError, match=r"population near, run 0: expected outputs of the sha256"):
        unpack(read_pack(changed), ["near"], str(tmp_path / "no"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data", {"splits": "cd" * 32, "classes": 3}, r"mine is of another study than .*data\.splits"),
        ("model", {"arch": "resnet18"}, r"mine is of another study than .*model\.arch"),
        ("seed", 1, r"mine is of another study than .*seed"),
        ("original_digest", "another", r"the originals of population mine: expected the digest another"),
        ("originals", 2, r"mine is of another study than .*originals"),
    ],
)
def test_a_population_of_another_study_is_refused(
    board: tuple[StudyStore, StudyStore, Path], tmp_path: Path, key: str, value: object, message: str
):
    """Law: other images, another net, seed or original is refused, and the difference named."""
    changed = shutil.copytree(board[2], tmp_path / "changed")
    restate(changed, "mine", **{key: value})
    with pytest.raises(StoreError, match=message):
        check_same_study(board[0], read_pack(changed), "mine")


def restate(pack: Path, population: str, **changes: object) -> None:
    """Change a packed identity, and its digest with it."""
    file = pack / "study" / population / "population.json"
    content = json.loads(file.read_text())
    identity = content["identity"] | changes
    file.write_text(json.dumps(content | {"identity": identity, "digest": digest(identity)}))


def test_other_digests_are_refused(board: tuple[StudyStore, StudyStore, Path], tmp_path: Path):
    """Law: a reference of another digest, runs of another digest and a name that is taken are refused, each by name."""
    first, _, pack = board
    for name, message in [
        ("retrained", "retrained was made differently"),
        ("mine", "run 0: expected the digest"),
        ("near", "near is on the board already"),
    ]:
        changed = shutil.copytree(pack, tmp_path / name)
        restate(changed, name, options={"lr": 1.0})
        with pytest.raises(StoreError, match=message):
            with_added(first, [read_pack(changed)])


def test_too_few_runs_and_other_folders_are_refused(
    board: tuple[StudyStore, StudyStore, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Law: fewer runs than the board's, a folder that is no pack, and a pack of an unnamed study are refused."""
    first, second, pack = board
    fewer = shutil.copytree(pack, tmp_path / "fewer")
    file = fewer / "study" / "mine" / "records.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))
    with pytest.raises(StoreError, match="mine has 5 runs; expected at least 6"):
        with_added(first, [read_pack(fewer)])
    with pytest.raises(StoreError, match="expected a folder that `ray-unlearn export"):
        read_pack(tmp_path)
    output = ["-o", str(tmp_path / "x.html")]
    assert main(["leaderboard", f"{second.storage.uri}/second", "--add", str(pack), *output]) == 1
    assert "is of the study first; expected one of second" in capsys.readouterr().err


def test_runs_are_compared_with_a_file_of_digests(
    board: tuple[StudyStore, StudyStore, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Law: equal outputs are counted; other outputs, and another digest, are named and end with exit code 1."""
    first = board[0]
    study, file = tmp_path / "study.yaml", tmp_path / "digests.csv"
    loaded = first.study()
    assert loaded is not None
    study.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    export = ["export", str(study), str(file), "--format", "digests"]
    assert main(export) == 0
    assert main(export) == 2
    assert main(["verify", str(study), "--against", str(file)]) == 0
    assert "19 runs equal" in capsys.readouterr().out
    lines = file.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("near,0,"))
    assert re.fullmatch(r"near,0,[0-9a-f]{16},[0-9a-f]{16}", lines[place])
    known = lines[place].split(",")[2]
    lines[place] = lines[place][:-16] + "0" * 16
    file.write_text("\n".join([*lines, f"near,17,{known},0123456789abcdef"]))
    assert main(["verify", str(study), "--against", str(file)]) == 1
    out = capsys.readouterr().out
    assert "near/0: other outputs: expected the sha256 0000000000000000" in out
    assert "18 runs equal" in out
    assert "1 different, 1 not made" in out
    file.write_text(file.read_text().replace(known, "another"))
    assert main(["verify", str(study), "--against", str(file)]) == 1
    assert "near: another experiment: expected the digest another" in capsys.readouterr().out
    file.write_text("population\n")
    assert main(["verify", str(study), "--against", str(file)]) == 1
    assert "expected a file of" in capsys.readouterr().err
    file.unlink()
    assert main(["verify", str(study), "--against", str(file)]) == 1
    assert capsys.readouterr().err == f"error: {file}: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("study.json", lambda text: text.replace('"first"', '"../first"'), "expected the name of a study"),
        (
            "mine/population.json",
            lambda text: text.replace('"digest"', '"other"'),
            "expected a digest, and an identity",
        ),
        ("mine/population.json", lambda text: text.replace('"seed"', '"other"'), "the identity: expected the digest"),
        ("original/population.json", lambda text: text.replace("retain", "test"), "the identity: expected the digest"),
        ("splits/*.arrow", lambda data: data.replace(b"forget-000", b"forget-999"), "the images: expected the digest"),
        ("splits/*.arrow", lambda data: data[:100], "cannot be read as the ids of images"),
        ("mine/records.jsonl", lambda text: text + text, "expected a record for each run; found run 0 twice"),
        ("mine/records.jsonl", None, "cannot be read"),
        ("splits/*.arrow", None, "missing; expected the ids of the images"),
    ],
)
def test_a_damaged_folder_is_one_error(
    board: tuple[StudyStore, StudyStore, Path], tmp_path: Path, file: str, change: Callable[[Any], Any], message: str
):
    """Law: what a stranger's folder lacks, has twice, names otherwise, or has under a digest that is not its own, is an
    error that says so, and adds no row.
    """
    damaged = shutil.copytree(board[2], tmp_path / "damaged")
    changed = next((damaged / "study").glob(file))
    if change is None:
        changed.unlink()
    elif changed.suffix == ".arrow":
        changed.write_bytes(change(changed.read_bytes()))
    else:
        changed.write_text(change(changed.read_text()))
    with pytest.raises(StoreError, match=message):
        with_added(board[0], [read_pack(damaged)])


def test_an_identity_with_a_uri_keeps_its_digest(board: tuple[StudyStore, StudyStore, Path], tmp_path: Path):
    """Law: an identity is kept without the options of a URI, which its digest covers; such a folder is not damaged."""
    folder = shutil.copytree(board[2], tmp_path / "uri")
    file = folder / "study" / "mine" / "population.json"
    content = json.loads(file.read_text())
    content["identity"]["options"] = {"masks": "s3://bucket/masks?version=1"}
    content["digest"] = digest(content["identity"])
    content["identity"]["options"] = {"masks": "s3://bucket/masks"}
    file.write_text(json.dumps(content))
    assert read_pack(folder).populations["mine"]["digest"] == content["digest"]


def test_an_image_that_no_split_has_is_refused(board: tuple[StudyStore, StudyStore, Path], tmp_path: Path):
    """Law: outputs of unknown images, and of no image at all, are not those that the record names."""
    for empty in (False, True):
        changed = shutil.copytree(board[2], tmp_path / str(empty))
        for file in (changed / "outputs" / "mine").glob("*.parquet"):
            table = pq.read_table(file)
            other = table.set_column(2, "image_id", [["x"] * len(table)])
            pq.write_table(other.slice(0, 0 if empty else len(table)), file)
        with pytest.raises(StoreError, match="population mine, run 0: expected outputs of the sha256"):
            with_added(board[0], [read_pack(changed)])


def test_scores_that_runs_were_made_since_are_called_so(board: tuple[StudyStore, StudyStore, Path], tmp_path: Path):
    """Law: the board says which population has more runs than its scores are of."""
    assert not any("can be scored" in line for line in with_added(board[0], [])[0].warnings)
    shutil.copytree(board[0].storage.uri, tmp_path / "later")
    later = StudyStore(open_storage(str(tmp_path / "later")), "first")
    old = read_scores(later)
    near = old.populations["near"].model_copy(update={"runs": 4})
    save(later, old.model_copy(update={"populations": {**old.populations, "near": near}}))
    scores, _ = with_added(later, [])
    line = "first: near: 6 runs can be scored, and these scores are of 4; `ray-unlearn evaluate` computes them anew"
    assert line in leaderboard_page([Entry(scores)])
    assert line.replace("`", r"\`") in leaderboard_markdown([Entry(scores)])


def test_a_packed_folder_names_no_person_and_no_folder(board: tuple[StudyStore, StudyStore, Path], tmp_path: Path):
    """Law: no accuracy by group, which is a person, and no path of this machine, wherever a study has one."""
    first = board[0]
    shutil.copytree(first.storage.uri, tmp_path / "own")
    store = StudyStore(open_storage(str(tmp_path / "own")), "first")
    scores = read_scores(store)
    near = scores.populations["near"]
    person = near.slices[0].model_copy(update={"by": "group", "key": "Ada"})
    near = near.model_copy(update={"slices": (*near.slices, person)})
    save(store, scores.model_copy(update={"populations": {**scores.populations, "near": near}}))
    others = {"reference": "retrained", "populations": {"other": "/home/ada/storage/study/other"}}
    study = study_of(tmp_path / "own", COUNTS, name="first", evaluation=others)
    export_hub(store, study, [*COUNTS], tmp_path / "hub")
    held = {file.name: file.read_text() for file in (tmp_path / "hub" / "study").glob("*.json")}
    assert {*held} == {"study.json", "scores.json"}
    assert not any(text in one for one in held.values() for text in ("Ada", "/home/ada", str(tmp_path)))
    assert json.loads(held["study.json"])["evaluation"]["populations"] == {"other": "other"}
    assert json.loads(held["scores.json"])["populations"]["near"]["slices"]


def test_digests_of_nothing_are_refused(
    board: tuple[StudyStore, StudyStore, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Law: a population that the study does not have, and one without runs, give no file."""
    study, loaded = tmp_path / "study.yaml", board[0].study()
    assert loaded is not None
    study.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    export = ["export", str(study), str(tmp_path / "digests.csv"), "--format", "digests"]
    assert main([*export, "--population", "neer"]) == 2
    assert "not a population of the study" in capsys.readouterr().err
    assert main([*export, "--set", "name=empty"]) == 1
    assert "no run is made yet" in capsys.readouterr().err
    assert not (tmp_path / "digests.csv").exists()
    assert main(["verify", str(study), "--repair", "--against", str(study)]) == 2
