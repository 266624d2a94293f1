"""A new folder that appears whole, or not at all.

    with new_folder(Path("hub")) as pending:
        (pending / "README.md").write_text(text)

Does not cover: single files (`ray_unlearn.export`).
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_unlearn.errors import StudyError, writing


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder`, which takes its name once the block is done, and is removed where it fails.

    Raises:
        StudyError: the folder exists.
        StoreError: it cannot be written.

    """
    if folder.exists():
        raise StudyError(f"{folder}: exists already and is not overwritten; choose another name")
    pending = folder.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{folder.name}")
    try:
        with writing(folder):
            pending.mkdir(parents=True)
            yield pending
            pending.rename(folder)
    finally:
        shutil.rmtree(pending, ignore_errors=True)
