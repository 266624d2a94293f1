"""S3: the whole life of a study against moto's server, also through a network that fails; and what a failure leaves."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from plans import finetune, plan_of, record_of
from s3 import Proxy, Server, moto_server
from s3_cycle import PLANNED, live, made_on_a_disk, payloads, study_on
from samples import encoded, picture, prepare, write_parquet

from ray_unlearn.data.sources import open_source
from ray_unlearn.errors import StoreError, StoreReadOnly
from ray_unlearn.generation import generate
from ray_unlearn.store import StudyStore, open_storage, retries, study_store
from ray_unlearn.store.events import EventReader
from ray_unlearn.store.verify import verify
from ray_unlearn.study.schema import Columns, Source

pytestmark = pytest.mark.filterwarnings("ignore:.*datetime.*:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with moto_server() as found:
        found.make_bucket("bucket")
        yield found
    patch.undo()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A place in the bucket of the test's own."""
    return f"bucket/{request.node.name.replace('[', '-').rstrip(']')}"


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return made_on_a_disk(tmp_path_factory.mktemp("disk"))


def test_the_whole_life_of_a_study(server: Server, prefix: str, tmp_path: Path, expected: dict[str, bytes]):
    """Law: an object store does for a study what a disk does, to the same bytes."""
    live(server.uri(prefix), tmp_path, expected)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1])
@pytest.mark.usefixtures("no_pauses")
def test_the_whole_life_of_a_study_through_a_network_that_fails(server, prefix, tmp_path, expected, seed: int):
    """Law: one request in twelve meets a 500, a 503 or a reset before, within or after it: nothing is different."""
    with Proxy(server, seed=seed, share=1 / 12) as proxy:
        live(proxy.uri(prefix), tmp_path, expected)
    assert sum(proxy.happened[fault] for fault in ("500", "503")) >= 5
    assert sum(count for kind, count in proxy.happened.items() if kind.startswith("reset")) >= 10


@pytest.mark.long
@pytest.mark.parametrize("file", ["model.safetensors", "record.json"])  # six seconds of pyarrow's own tries each
def test_a_run_that_cannot_be_uploaded_fails_and_is_not_counted(server, prefix, expected, monkeypatch, file: str):
    """Law: whichever of its objects is refused for good, the run has no record; the others do, and later it has."""
    monkeypatch.setattr(retries, "_PAUSES_S", ())  # pyarrow's own tries take six seconds already
    with Proxy(server) as proxy:
        proxy.always = {f"POST /{prefix}/tiny/finetune/00001/{Path(file).stem}": "503"}
        study = study_on(proxy.uri(prefix))
        study = study.model_copy(update={"execution": study.execution.model_copy(update={"max_attempts": 1})})
        summary = generate(study, backend="inline")
        assert (summary.made, summary.exit_code) == (PLANNED - 1, 3)
        (error,) = summary.failed.values()
        assert error.startswith(
            f"s3://{prefix}: cannot write tiny/finetune/00001: When initiating multiple part upload "
        )
        assert "SLOW_DOWN" in error
        store = StudyStore(open_storage(server.uri(prefix)), study.name)
        assert sorted(store.made("finetune")) == [0, 2]
        assert [failure.error for failure in store.failures("finetune").values()] == [error]
        assert verify(store, store.populations()).problems == ()
        proxy.always = {}
        assert generate(study, backend="inline").made == 1
    assert payloads(store) == expected
    assert store.failures("finetune") == {}
    assert [events[-1]["event"] for events in EventReader(store).logs().values()] == ["ended", "ended"]


def test_a_signal_in_the_middle_of_an_upload_leaves_no_short_object(server: Server, prefix: str, request):
    """Law: an exception in the main thread, as a signal raises it, finds the object absent or whole, never short."""
    data = os.urandom(200_000)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with Proxy(server) as proxy:
        proxy.delay_s = 0.05
        storage, direct = open_storage(proxy.uri(prefix)), open_storage(server.uri(prefix))
        for number in range(8):
            name = f"{number}.bin"
            timer = threading.Timer(0.04 * number, _thread.interrupt_main)
            try:
                timer.start()
                storage.publish_file(name, data)
                time.sleep(5)
            except KeyboardInterrupt:
                pass
            assert direct.sizes("").get(name) in (None, len(data))


def test_an_object_that_arrived_short_is_an_error(server: Server, prefix: str, monkeypatch):
    """Law: what is there after an upload has the size of what was sent; else the write failed, and is tried again."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    storage = open_storage(server.uri(prefix))
    real = type(storage.filesystem).open_output_stream

    class Short:
        """A file system that loses the second half."""

        def __init__(self, filesystem: object) -> None:
            self._filesystem = filesystem

        def open_output_stream(self, path: str) -> object:
            stream = real(self._filesystem, path)
            write = stream.write

            class Stream:
                def __enter__(self) -> Stream:
                    return self

                def __exit__(self, *error: object) -> None:
                    stream.close()

                def write(self, data: bytes) -> None:
                    write(data[: len(data) // 2])

            return Stream()

        def __getattr__(self, name: str) -> object:
            return getattr(self._filesystem, name)

    from dataclasses import replace

    short = replace(storage, filesystem=Short(storage.filesystem))
    with pytest.raises(StoreError, match=r"cannot write a: 2 of 5 bytes arrived"):
        short._try("write", "a", lambda: short._upload("a", b"12345"))
    assert slept == list(retries._PAUSES_S)


def test_image_folders_and_parquet_on_a_bucket(server: Server, prefix: str, tmp_path: Path):
    """Law: both are read from a bucket as from a disk, through a network that fails, and no message has a secret."""
    root = tmp_path / "faces"
    for index in range(6):
        path = root / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(index)))
    parquet = [write_parquet(tmp_path / "tables" / f"{i}.parquet", [0, 1], start=2 * i) for i in range(3)]
    bucket = open_storage(server.uri(prefix))
    for path in (*root.rglob("*.png"), *parquet):
        bucket.publish_file(str(path.relative_to(tmp_path)), path.read_bytes())
    with Proxy(server, seed=0, share=0.1) as proxy:
        for name in ("faces", "tables/*.parquet"):
            there, here = proxy.uri(f"{prefix}/{name}"), str(tmp_path / name)
            manifests = [
                prepare(open_source(Source(path=path), "train", Columns()), tmp_path / "store").manifest
                for path in (there, here)
            ]
            assert manifests[0].content == manifests[1].content
            assert manifests[0].num_images == 6
            assert server.secret not in manifests[0].source


def test_a_bucket_that_is_not_there_is_one_line(server: Server):
    """Law: a wrong bucket is reported at once, with the storage's name and no key in it."""
    begun = time.monotonic()
    with pytest.raises(
        StoreError, match=r"^s3://nowhere/x: cannot write study\.json: .*(does not exist|NO_SUCH_BUCKET)"
    ) as caught:
        open_storage(server.uri("nowhere/x")).publish_file("study.json", b"x")
    assert "secret" not in str(caught.value)
    assert time.monotonic() - begun < 3


def test_keys_that_may_not_write_are_a_read_only_store(server: Server, prefix: str, monkeypatch):
    """Law: ACCESS_DENIED is final: one try, and the kind of error that lets `evaluate` go on without saving."""
    storage = open_storage(server.uri(prefix))
    tries = []

    def refuse(self: object, name: str, data: bytes) -> None:
        tries.append(name)
        raise OSError("When initiating multiple part upload: AWS Error ACCESS_DENIED during CreateMultipartUpload")

    monkeypatch.setattr(type(storage), "_put", refuse)
    with pytest.raises(StoreReadOnly, match="ACCESS_DENIED"):
        storage.publish_file("a", b"x")
    assert tries == ["a"]


def test_records_of_an_object_store_are_compacted(server: Server, prefix: str, monkeypatch):
    """Law: 20 records, read once, are then one listing and one object."""
    monkeypatch.setattr(study_store, "_WORTH_COMPACTING", 0)
    monkeypatch.setattr(study_store, "_SETTLES_NS", 0)
    plan = plan_of(20)
    digest = plan.populations["finetune"].digest
    with Proxy(server) as proxy:
        store = StudyStore(open_storage(proxy.uri(prefix)), "tiny")
        for index in range(20):
            data = record_of(plan, finetune(index), {}).sealed().model_dump_json().encode()
            store.storage.publish_file(store.layout.record(finetune(index)), data)
        expected = store.compact("finetune", digest)
        assert len(expected) == 20
        proxy.happened.clear()
        assert store.records("finetune", digest) == expected
        assert proxy.happened["GET"] + proxy.happened["HEAD"] <= 3
        store.discard(finetune(7))
        assert sorted(set(expected) - set(store.records("finetune", digest))) == [7]
