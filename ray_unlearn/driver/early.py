"""Before and beside the start of Ray: what costs nothing to refuse, and the imports that take seconds.

    refuse_early(study)                          # a typo in a path costs half a second, not a cluster
    imports = begin_to_import()
    ray.init(...)
    imports.result()
    refuse_precision(job.plan, pool.device, {"finetune"})

The rooms that read the files raise their own errors; here is only looked whether they would.

Does not cover: what is in the files (`opening`), nor anything on another machine.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ray_unlearn.errors import MethodError, RayUnlearnError
from ray_unlearn.study.plan import Plan
from ray_unlearn.study.schema import Source, Study
from ray_unlearn.study.uris import without_keys


def refuse_early(study: Study) -> None:
    """Refuse a study whose sources, scripts or weights are not on this machine's disks; others are not looked at.

    Raises:
        RayUnlearnError: what `open_job` would raise.

    """
    for role in ("train", "validation", "test"):
        source = getattr(study.data, role)
        if isinstance(source, Source) and any(map(_is_missing, _paths(source))):
            from ray_unlearn.data.sources import open_source

            open_source(source, "train" if role == "train" else "test", study.data.columns)
    for name, population in study.populations.items():
        script, _, function = (population.method or "").rpartition(".py:")
        files = [f"{script}.py"] if script and function else []
        if any(map(_is_missing, (*files, *(population.weights or ())))):
            from ray_unlearn.methods.resolve import resolve

            resolve(study, name)


def refuse_precision(plan: Plan, device: str, populations: Collection[str]) -> None:
    """Refuse `precision: tf32` on a CPU once for all runs; which GPU there will be, only its worker knows.

    Raises:
        MethodError: one of the populations asks for it.

    """
    for name, population in plan.populations.items():
        options = population.method.options
        if device == "cpu" and name in populations and getattr(options, "precision", "") == "tf32":
            import torch

            from ray_unlearn.training.precision import refuse_unsupported

            try:
                refuse_unsupported("tf32", torch.device(device))
            except MethodError as error:
                raise MethodError(f"populations.{name}: {error}") from None


def begin_to_import() -> Future[None]:
    """Import torch beside the start of Ray, which is mostly waiting; the process waits for it in any case."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="imports")
    imports = pool.submit(import_what_follows)
    pool.shutdown(wait=False)
    return imports


def import_what_follows() -> None:
    """Import torch and what needs it.

    Raises:
        RayUnlearnError: this environment cannot.

    """
    try:
        import ray_unlearn.driver.opening
        import ray_unlearn.store.metrics  # noqa: F401
    except Exception as error:  # a library that is damaged, or built for another, may raise anything
        said = without_keys(" ".join(str(error).split()))[:300]
        raise RayUnlearnError(
            f"what runs need cannot be imported: {type(error).__name__}: {said}; the environment is not whole: "
            "`uv sync --reinstall`, or pip install --force-reinstall torch torchvision"
        ) from error


def _paths(source: Source) -> Iterator[str]:
    yield from (source.path,) if isinstance(source.path, str) else source.path or ()


def _is_missing(path: str) -> bool:
    try:
        return "://" not in path and not Path(path).exists() and not glob.glob(path, recursive=True)  # noqa: PTH207
    except (OSError, ValueError):  # a name that no file system takes
        return True
