"""The subcommand that lists and writes files to start from: example studies, job scripts for Slurm, cluster manifests.

    ray-unlearn examples studies/faces.yaml faces.yaml

A wheel carries the files; in a checkout they are those of `jobs/`, and cluster.yaml.

Does not cover: the commented study to edit, which `init` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.errors import StudyError, check_new, did_you_mean, write_text
from ray_unlearn.terminal import print_line

_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = (".yaml", ".sbatch", ".json")


def examples(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The example to print or write.")] = None,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Output file. Default: print it.")] = None,
) -> None:
    """List or write example studies, job scripts, manifests.

    Without NAME, the names are listed. FILE is never overwritten: the exit code is 2 if it exists.
    """
    files = example_files()
    if name is None:
        print_line("\n".join(files))
        return
    if name not in files:
        raise StudyError(f"examples: no {name!r}{did_you_mean(name, files)}")
    text = files[name].read_text(encoding="utf-8")
    if file is None:
        print_line(text.rstrip())
        return
    check_new(file)
    write_text(file, text)
    print_line(f"wrote {file}")


def example_files() -> dict[str, Path]:
    """Return the path of each example by its name, sorted by name."""
    installed = _PACKAGE / "examples"
    jobs = installed if installed.is_dir() else _PACKAGE.parent / "jobs"
    found = [path for folder in ("", "slurm", "studies") for path in (jobs / folder).glob("*")]
    files = {path.relative_to(jobs).as_posix(): path for path in found if path.suffix in _SUFFIXES}
    if jobs != installed:
        files["cluster.yaml"] = _PACKAGE.parent / "cluster.yaml"
    return dict(sorted(files.items()))
