"""A study file and its overrides -> a study: syntax, overrides, paths, and the one line that refuses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, merged

from ray_unlearn.errors import StudyError
from ray_unlearn.study import Study, load_study

JOBS = Path(__file__).resolve().parents[1] / "jobs" / "studies"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """TINY as a file, in a folder of its own."""
    path = tmp_path / "studies" / "tiny.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(TINY))
    return path


def load(file: Path, **changes: Any) -> Study:
    """Write TINY with these changes to the file, and load it."""
    file.write_text(yaml.safe_dump(merged(TINY, changes)))
    return load_study(file)


def refusal(file: Path, *overrides: str) -> str:
    """Return the one line that the study is refused with."""
    with pytest.raises(StudyError) as caught:
        load_study(file, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_missing_file_is_named_with_the_command_that_writes_one(tmp_path: Path) -> None:
    """What, where, why, and the next command."""
    path = tmp_path / "faces.yaml"
    why = "cannot be read (No such file or directory)"
    assert refusal(path) == f"{path}: {why}; `ray-unlearn init FILE` writes one to start from"


def test_a_folder_or_bytes_are_no_study(tmp_path: Path) -> None:
    """What cannot be read as text is refused without a traceback."""
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read (Is a directory)"
    image = tmp_path / "image.png"
    image.write_bytes(b"\x89PNG\r\n")
    assert refusal(image).startswith(f"{image}: cannot be read ('utf-8' codec can't decode byte 0x89")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nname: b\n", "the key 'name' is given twice"),
        ("data:\n  train: x\n  train: y\n", "line 3"),
        ("name: [\n", "expected the node content, but found '<stream end>'"),
        ("name: {{ name }}\n", "found unhashable key"),
        ("name: a: b\n", "mapping values are not allowed here"),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    """PyYAML's own report, its line breaks removed."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    line = refusal(path)
    assert line.startswith(f"{path}: not YAML: ")
    assert says in line


@pytest.mark.parametrize(("text", "found"), [("", "NoneType"), ("- a\n- b\n", "list"), ("faces\n", "str")])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str, found: str) -> None:
    """YAML that is no mapping states what was expected and found."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert refusal(path) == f"{path}: expected a mapping with name, data and populations; found {found}"


def test_the_file_opens_every_refusal(file: Path) -> None:
    """The key's path comes after the file that it is in, also where an override made it wrong."""
    assert refusal(file, "count=1") == f"{file}: count: unknown key; a population has it: populations.NAME.count"
    assert refusal(file, "training.epoch=1") == f"{file}: training.epoch: unknown key (did you mean 'epochs'?)"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.lr=1e-4", "training.lr", 1e-4),
        ("training.optimizer=sgd", "training.optimizer", "sgd"),
        ("training.augment={crop: 4, flip: true}", "training.augment.crop", 4),
        ("training.augment.flip=true", "training.augment.flip", True),
        ("outputs.splits=[test]", "outputs.splits", ("test",)),
        ("data.limit=null", "data.limit", None),
        (" seed = 7 ", "seed", 7),
        ("name=a=b", None, "name: expected 1 to 64 English letters"),
        ("data.limit=50", "data.train.format", "digits"),
        ("training={lr: 0.5}", "training.batch_size", 32),
    ],
)
def test_an_override_is_a_path_and_a_yaml_value(file: Path, override: str, key: str | None, value: Any) -> None:
    """The value is YAML; mappings merge, and everything that the override does not state stays."""
    if key is None:
        assert value in refusal(file, override)
        return
    found: Any = load_study(file, [override])
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_overrides_apply_in_order_and_reach_populations(file: Path) -> None:
    """The last override of a key wins; a new population is a mapping."""
    study = load_study(
        file,
        [
            "populations.finetune.count=5",
            "populations.finetune.count=6",
            "populations.retrained={method: train, on: retain}",
            "populations.retrained.count=2",
        ],
    )
    assert study.populations["finetune"].planned == 6
    assert study.populations["finetune"].options == {"noise_std": 0.01}
    assert study.populations["retrained"].planned == 2
    assert study.populations["retrained"].options == {"on": "retain"}


@pytest.mark.parametrize("override", ["training.lr", "=3", ".lr=3", "training..lr=3", "training.=3", ""])
def test_a_malformed_override_shows_how_one_looks(file: Path, override: str) -> None:
    """Quoted as given, with an example."""
    says = "expected KEY.KEY=VALUE, for example training.lr=1e-4"
    assert refusal(file, override) == f"--set {override!r}: {says}"


def test_an_override_of_a_mistyped_population_is_refused(file: Path) -> None:
    """Law: the key that was meant is shown; an override that makes a population of its own is none."""
    override = "populations.finetun.count=9"
    assert refusal(file, override) == (
        f"--set {override!r}: the study has no population 'finetun' (did you mean 'populations.finetune.count'?)"
    )
    study = load_study(file, ["populations.late.count=2", "populations.late.method=finetune"])
    assert study.populations["late"].planned == 2


def test_an_override_whose_value_is_not_yaml_is_refused(file: Path) -> None:
    """One line, opened by the override itself."""
    assert refusal(file, "outputs.splits=[test").startswith("--set 'outputs.splits=[test': the value is not YAML: ")


def test_relative_paths_are_relative_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command runs, the study means the same files."""
    monkeypatch.chdir("/")
    folder = file.parent
    study = load(
        file,
        storage="out",
        data={
            "train": ["a.parquet", "/abs/b.parquet"],
            "test": {"path": "digits", "format": "folder"},
            "validation": "faces/*.parquet",
            "forget": {"fraction": None, "ids": "forget.csv"},
        },
        populations={
            "given": {"weights": ["w0.pth", "s3://bucket/w1.pth"]},
            "mine": {"method": "methods/mine.py:unlearning"},
        },
    )
    assert study.storage == f"{folder}/out"
    assert study.data.train.path == (f"{folder}/a.parquet", "/abs/b.parquet")
    assert study.data.test.path == f"{folder}/digits"  # type: ignore[union-attr]
    assert study.data.validation.path == f"{folder}/faces/*.parquet"  # type: ignore[union-attr]
    assert study.data.forget.ids == f"{folder}/forget.csv"
    assert study.populations["given"].weights == (f"{folder}/w0.pth", "s3://bucket/w1.pth")
    assert study.populations["mine"].method == f"{folder}/methods/mine.py:unlearning"
    assert study.populations["finetune"].method == "finetune"


def test_a_relative_study_file_still_gives_absolute_paths(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers on other machines have other current folders."""
    monkeypatch.chdir(file.parent)
    assert load_study(Path("tiny.yaml"), ["storage=out"]).storage == f"{file.parent}/out"


def test_storage_left_out_is_the_default_written_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same study finds the same store from any folder, whether or not it states `storage: ./studies`."""
    monkeypatch.chdir("/")
    left_out, written_out = load(file).storage, load(file, storage="./studies").storage
    assert left_out == written_out == f"{file.parent}/studies"


def test_paths_of_overrides_are_relative_to_the_current_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is typed at a prompt means what the shell's completion would state."""
    monkeypatch.chdir(tmp_path)
    study = load_study(file, ["storage=out", "data.train=here.parquet", "populations.finetune.method=m.py:f"])
    assert study.storage == f"{tmp_path}/out"
    assert study.data.train.path == f"{tmp_path}/here.parquet"
    assert study.populations["finetune"].method == f"{tmp_path}/m.py:f"


@pytest.mark.parametrize("uri", ["s3://bucket/prefix", "gs://bucket/prefix"])
def test_uris_and_embedded_names_are_no_paths(file: Path, uri: str) -> None:
    """A URI, `digits`, `cifar10` and `given` mean the same everywhere."""
    study = load(file, storage=uri, data={"train": f"{uri}/train.parquet", "test": "cifar10", "validation": "given"})
    assert study.storage == uri
    assert study.data.train.path == f"{uri}/train.parquet"
    assert study.data.test.format == "cifar10"  # type: ignore[union-attr]
    assert study.data.validation == "given"
    assert load(file, data={"forget": {"fraction": None, "ids": ["17", "4"]}}).data.forget.ids == ("17", "4")


def test_a_home_folder_is_expanded_and_an_unknown_one_is_left(file: Path, isolated_home: Path) -> None:
    """`~` is the user's home; `~nobody-by-that-name` is a folder like any other, not a traceback."""
    assert load(file, storage="~/out").storage == f"{isolated_home}/out"
    assert load(file, storage="~no-such-user/out").storage == f"{file.parent}/~no-such-user/out"


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_example_studies_load(path: Path) -> None:
    """Each study next to the jobs is valid as it is, and called like its file."""
    assert load_study(path).name == path.stem


def test_there_are_example_studies() -> None:
    """Else the test above would pass by finding nothing."""
    assert list(JOBS.glob("*.yaml"))


def test_a_file_of_wrong_keys_is_refused_at_once(file: Path) -> None:
    """Law: of 20,000 wrong keys a hundred have a line each, within seconds; the last line counts the others."""
    file.write_text("".join(f"key{number}: 1\n" for number in range(20_000)))
    began = time.monotonic()
    with pytest.raises(StudyError) as caught:
        load_study(file)
    *lines, last = str(caught.value).splitlines()
    assert time.monotonic() - began < 20
    assert len(lines) == 100
    assert last == f"{file}: 19,903 more wrong keys"  # and three that are missing
