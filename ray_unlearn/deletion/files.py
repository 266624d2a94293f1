"""Files that a deletion request leaves in its folder: the unlearned model in two formats, and their hashes.

    check_replaceable(study, folder)             # before any work
    files = write_models(store, run, folder)     # [("model.pth", "9f86..."), ("model.safetensors", "2c26...")]

Only a file that the request wrote, as SHA256SUMS has it, is replaced. SHA256SUMS names a file's next content before it
is replaced, beside the present one, so that a request that was killed in between is repeated like any other.

Does not cover: the study file (`request`), the page (`page`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ray_unlearn.deletion.request import STUDY_FILE
from ray_unlearn.errors import StoreError, StudyError, write_file
from ray_unlearn.export import model_content
from ray_unlearn.store import StudyStore
from ray_unlearn.store.records import payload_of
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.study.schema import Study
from ray_unlearn.usercode.sources import sha256_of

MODELS = ("model.pth", "model.safetensors")
_SUMS = "SHA256SUMS"


def check_replaceable(study: Study, folder: Path) -> None:
    """Check that the request may write its models.

    Raises:
        StudyError: one of the files is the original, or a file that the request did not write.
        StoreError: the folder cannot be read.

    """
    weights = Path((study.populations[ORIGINAL].weights or ("",))[0])
    if weights.resolve() in [(folder / name).resolve() for name in MODELS]:
        raise StudyError(
            f"{weights}: the unlearned model would be written over the original; rename the original, or "
            "choose another folder for the request (-o FOLDER, or that of its study file)"
        )
    try:
        written = _sums(folder)
        strange = [
            name for name in MODELS if (folder / name).exists() and (sha256_of(folder / name), name) not in written
        ]
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if strange:
        raise StudyError(
            f"{folder / strange[0]}: the unlearned model would be written over it, but {_SUMS} in its folder does not "
            "name it as a file of this request; move it away, or choose another folder (-o FOLDER, or that of the "
            "study file)"
        )


def earlier_request(model: Path) -> Path | None:
    """Return the study file of the request that wrote a model, beside it; None where the model is of none."""
    file = model.parent / STUDY_FILE
    try:
        return file if file.is_file() and (sha256_of(model), model.name) in _sums(model.parent) else None
    except OSError:
        return None


def write_models(store: StudyStore, run: Run, folder: Path) -> list[tuple[str, str]]:
    """Write a run's model in both formats; return name and sha256 of each file.

    Raises:
        StoreError: the checkpoint is damaged, or the folder cannot be written.

    """
    contents = {name: model_content(store, run, Path(name).suffix) for name in MODELS}
    new = [(payload_of(content).sha256, name) for name, content in contents.items()]
    write_file(folder / _SUMS, _lines([*new, *(one for one in _sums(folder) if one not in new)]))
    for name, content in contents.items():
        write_file(folder / name, content)
    write_file(folder / _SUMS, _lines(new))
    return [(name, sha256) for sha256, name in new]


def _lines(sums: Sequence[tuple[str, str]]) -> bytes:
    return "".join(f"{sha256}  {name}\n" for sha256, name in sums).encode()


def _sums(folder: Path) -> list[tuple[str, str]]:
    """Return sha256 and name of each file that the request wrote, or was about to write; empty before it began."""
    if not (folder / _SUMS).exists():
        return []
    lines = (folder / _SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    return [(sha256, name.strip()) for sha256, _, name in (line.partition("  ") for line in lines)]
