"""Small file systems of a test's own: mounted where this machine allows it, else the test is skipped, with a notice."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of `size` (as mount understands it) at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # Arrow may still have shards mapped


def remount(folder: Path, options: str) -> None:
    """Change a mounted file system: `ro`, `rw`, `size=64m`."""
    _mount("-o", f"remount,{options}", str(folder))


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine does not let us mount: {getattr(error, 'stderr', '') or error}".strip())
