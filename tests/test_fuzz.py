"""Bad input, some 150 times; `tests/stress/fuzz.py` does the same thousands of times, in processes with limits.

And what fuzzing found, each once more by itself.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from ray_unlearn.data.decode import ShardInfo, decode
from ray_unlearn.data.parquet import open_parquet
from ray_unlearn.data.shards import encode_shard, map_shard
from ray_unlearn.errors import DataError, ModelError, StudyError
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.models import load_weights, parse_weights, small_cnn
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.arrow import ipc_bytes
from ray_unlearn.store.records import payload_of
from ray_unlearn.study import load_study
from ray_unlearn.study.schema import Columns

sys.path.append(str(Path(__file__).resolve().parent / "stress"))

import fuzz_bytes
import fuzz_judge
import fuzz_kinds
import fuzz_study

CASES = {"study": 24, "resolved": 12, "override": 12, "parquet": 12, "csv": 12, "image": 10, "weights": 10}
CASES |= {"record": 10, "arrow": 10, "arguments": 10, "shard": 10, "special": 10, "bomb": 10}

_numbers = itertools.count()


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return fuzz_kinds.make_template(tmp_path_factory.mktemp("template"))


def test_every_kind_has_cases():
    """Law: a new kind is fuzzed here, too."""
    assert set(CASES) == set(fuzz_kinds.KINDS)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.filterwarnings("ignore")  # of torch, about quantised tensors and the like: what is fuzzed makes them
def test_bad_input_is_refused_or_taken(kind: str, template: Path, tmp_path: Path):
    """Law: exit code 0 to 3, one `error:` line, no traceback, no file outside the storage, no hang, no swelling."""

    @seed(0)
    @settings(max_examples=CASES[kind], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def every_case(rng: Any) -> None:
        verdict = fuzz_judge.judge_with(kind, rng, tmp_path / str(next(_numbers)), template)
        assert verdict.outcome != "violation", verdict.why

    every_case()


def test_the_judge_sees_violations(template: Path, tmp_path: Path, monkeypatch):
    """Law: a traceback, a file outside the storage, and an exit code of nothing are each found."""

    def writes(arguments: list[str]) -> int:
        Path("../outside").write_text("x")
        return 0

    def raises(arguments: list[str]) -> int:
        raise KeyError("x")

    said = {}
    for main in (writes, raises, lambda arguments: 7, lambda arguments: 1):
        monkeypatch.setattr(fuzz_judge, "main", main)
        verdict = fuzz_judge.judge("override", "0", tmp_path / str(next(_numbers)), template)
        assert verdict.outcome == "violation"
        said[main] = verdict.why
    for part, why in zip(
        ("outside the storage", "KeyError", "exit code 7", "without a line"), said.values(), strict=True
    ):
        assert part in why


def test_schema_driven_mutations_reach_every_block():
    """Law: keys come from the schema: one of every block of a study, and methods' options."""
    found = {".".join(path) for path in fuzz_study.KEYS}
    assert {"data.forget.fraction", "data.columns.image", "training.lr", "execution.workers"} <= found
    assert {"evaluation.resamples", "outputs.splits", "populations.finetune.count", "seed"} <= found
    assert "populations.finetune.noise_std" in found
    assert "storage" not in found


@pytest.mark.parametrize("name", fuzz_study.YAML_BOMBS)
def test_yaml_that_bites_is_refused(name: str, tmp_path: Path):
    """Law: one StudyError, at once; no tag constructs anything."""
    file = tmp_path / "study.yaml"
    file.write_bytes(fuzz_study.YAML_BOMBS[name].encode("utf-8", "surrogatepass"))
    with pytest.raises(StudyError):
        load_study(file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "name", ["30000x30000.png", "12000x12000.png", "claims-2-to-the-31.png", "text.png", "program.eps"]
)
def test_image_bombs_are_refused_before_they_unpack(name: str):
    """Law: more than 89 million pixels, or metadata without end, are refused from the header; EPS starts no program."""
    with pytest.raises(DataError, match="not an image that can be decoded"):
        decode(fuzz_bytes.bombs_of_images()[name], 8)


@pytest.mark.parametrize("name", fuzz_bytes.BOMBS_OF_WEIGHTS)
def test_weights_with_false_headers_are_refused(name: str):
    """Law: headers that claim terabytes, archives that swell, and pickles end in one ModelError."""
    with pytest.raises(ModelError):
        parse_weights(fuzz_bytes.BOMBS_OF_WEIGHTS[name](), name)


@pytest.mark.parametrize("kind", ["meta", "sparse", "complex"])
def test_tensors_that_cannot_be_copied_are_refused(kind: str):
    """Law: no matter what torch would raise while copying is a ModelError that names the tensor."""
    model = small_cnn(10, width=4)
    state = model.state_dict()
    bias = state["14.bias"]
    state["14.bias"] = {"meta": bias.to("meta"), "sparse": bias.to_sparse(), "complex": bias.to(torch.complex64)}[kind]
    with pytest.raises(ModelError, match=r"w\.pth: tensor '14\.bias': expected plain numbers; found "):
        load_weights(model, state, "w.pth")


def table(folder: Path, **columns: Any) -> Path:
    file = folder / "t.parquet"
    pq.write_table(pa.table(columns), file, compression="zstd")
    return file


def test_parquet_that_swells_is_refused(tmp_path: Path):
    """Law: 100 MB of zeros in a few kB are refused by what the footer states; the file is not unpacked."""
    file = table(tmp_path, image=pa.array([b"\0" * 100_000_000], pa.large_binary()), label=[0])
    with pytest.raises(DataError, match=r"would unpack to 100,\d+,\d+ bytes from [\d,]+; encoded images do not"):
        open_parquet((str(file),), Columns())


def test_more_rows_than_bytes_are_refused(tmp_path: Path):
    """Law: ten million rows in some kB hold no images."""
    count = 10_000_000
    columns = {"image": pa.nulls(count, pa.binary()), "label": pa.array(np.zeros(count, np.int8))}
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), file, compression="zstd", row_group_size=count)
    with pytest.raises(DataError, match=r"claims 10,000,000 rows in [\d,]+ bytes"):
        open_parquet((str(file),), Columns())


def test_an_age_that_is_no_number_is_refused_by_row(tmp_path: Path):
    """Law: a text in the age column is a DataError with file and row."""
    file = table(tmp_path, image=[fuzz_bytes.encoded("PNG")] * 2, label=[0, 1], age=["3", "old"])
    source = open_parquet((str(file),), Columns(age="age"))
    with pytest.raises(DataError, match=r"t\.parquet row 1: column 'age': expected a number; found 'old'"):
        list(source.slices[0].rows())


@pytest.mark.parametrize("name", ["../../x.arrow", "/etc/passwd", "00000-000.arrow/../../x", "a.arrow", ""])
def test_a_manifest_cannot_name_files_elsewhere(name: str):
    """Law: copies of a remote storage's shards are written where we state: a name that leads elsewhere is no
    shard's.
    """
    from pydantic import TypeAdapter, ValidationError

    shard = {"rows": 1, "size_bytes": 1, "sha256": "0" * 64}
    TypeAdapter(ShardInfo).validate_python(shard | {"name": "00000-000.arrow"})
    with pytest.raises(ValidationError):
        TypeAdapter(ShardInfo).validate_python(shard | {"name": name})


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", ".hidden", "a/b", ""])
def test_a_record_cannot_name_files_elsewhere(name: str, template: Path):
    """Law: `verify` reads what records name, so they name files of their own folder."""
    from pydantic import ValidationError

    text = (template / "store/tiny/original/00000/record.json").read_text()
    Record.model_validate_json(text)
    with pytest.raises(ValidationError):
        Record.model_validate_json(text.replace("outputs.arrow", name))


def test_false_offsets_are_refused(tmp_path: Path, template: Path):
    """Law: Arrow believes every offset of a file; a shard is checked before anybody follows them."""
    shard = next((template / "store/data-cache").glob("*/*.arrow"))
    data = shard.read_bytes()
    offsets = np.cumsum([0] + [len("digits-0001")] * 8, dtype=np.int32)
    place = data.find(offsets[1:].tobytes())
    assert place > 0
    file = tmp_path / "shard.arrow"
    file.write_bytes(data[:place] + np.int32(-5).tobytes() + data[place + 4 :])
    with pytest.raises(DataError, match="not a readable shard"):
        map_shard(str(file))
    assert len(map_shard(str(shard)).labels_N) > 8
    assert encode_shard  # what wrote it


def test_outputs_that_are_none_are_a_store_error(template: Path, tmp_path: Path):
    """Law: an Arrow file of something else, with a record that agrees with it, is refused by run and file."""
    import shutil

    from ray_unlearn.errors import StoreError

    shutil.copytree(template / "store", tmp_path / "store")
    store = StudyStore(open_storage(str(tmp_path / "store")), "tiny")
    strange = pa.table({"x": [1]})
    for data in (ipc_bytes(strange), b"", b"ARROW1\0\0"):
        (tmp_path / "store/tiny/finetune/00000/outputs.arrow").write_bytes(data)
        records = store.made("finetune")
        payloads = {**records[0].payloads, "outputs.arrow": payload_of(data)}
        records[0] = records[0].model_copy(update={"payloads": payloads}).sealed()
        with pytest.raises(StoreError, match=r"run finetune/00000: outputs\.arrow does not hold outputs"):
            read_outputs(store, "finetune", records)
