"""Files that a deletion request leaves in its folder: the unlearned model in two formats, and their hashes.

    check_replaceable(study, folder)             # before any work
    files = write_models(store, run, folder)     # [("model.pth", "9f86..."), ("model.safetensors", "2c26...")]

Only a file that the request wrote, as SHA256SUMS has it, is replaced.

Does not cover: the study file (`request`), the page (`page`).
"""

from __future__ import annotations

from pathlib import Path

from ray_unlearn.errors import StoreError, StudyError
from ray_unlearn.export import export_model
from ray_unlearn.store import StudyStore
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
            name for name in MODELS if (folder / name).exists() and sha256_of(folder / name) != written.get(name)
        ]
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if strange:
        raise StudyError(
            f"{folder / strange[0]}: the unlearned model would be written over it, but {_SUMS} beside it does not say "
            "that this request wrote it; move it away, or choose another folder (-o FOLDER, or that of the study file)"
        )


def write_models(store: StudyStore, run: Run, folder: Path) -> list[tuple[str, str]]:
    """Write a run's model in both formats; return name and sha256 of each file.

    Raises:
        StoreError: the checkpoint is damaged, or the folder cannot be written.

    """
    files = [(name, export_model(store, run, folder / name).sha256) for name in MODELS]
    try:
        (folder / _SUMS).write_text("".join(f"{sha256}  {name}\n" for name, sha256 in files), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return files


def _sums(folder: Path) -> dict[str, str]:
    """Return sha256 by name, as the request wrote it; empty before the first time."""
    if not (folder / _SUMS).exists():
        return {}
    lines = (folder / _SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    return {name.strip(): sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
