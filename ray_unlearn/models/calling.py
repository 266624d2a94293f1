"""Calls a factory: `factory(num_classes=..., **options)`, or as it names the number of classes, or without.

    model = call("nets:ResNet18", factory, 10, {"width": 8}, folder="/home/me/faces")

Factories of popular repositories take the number of classes under another name, or not at all (`def ResNet18():`); then
their own head has to fit, which `trial` checks.

Does not cover: finding the factory (`usercode.imports`).
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ray_unlearn.errors import ModelError, first_line
from ray_unlearn.study.uris import labelled
from ray_unlearn.usercode.exits import stays
from ray_unlearn.usercode.offline import offline

NAMES = ("num_classes", "n_classes", "nb_classes", "num_class", "n_class", "nclasses", "nclass", "num_labels")
"""Names of the parameter that gets the number of classes: the first of these that a factory has."""


def call(arch: str, factory: Callable[..., Any], num_classes: int, options: Mapping[str, Any], folder: str = "") -> Any:
    """Return what the factory makes, without a network, and without an effect on how this process computes.

    Raises:
        ModelError: the factory cannot be called like this, or raises an error.

    """
    arguments = arguments_of(factory, num_classes, options)
    _check_arguments(arch, factory, arguments, options)
    try:
        with offline(f"model {arch}:"), stays(), _settings_kept():
            return factory(**arguments)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # a factory may raise anything
        if refusal := _refusal_of_connection(error):
            raise ModelError(str(refusal)) from error
        reason = first_line(error)
        if isinstance(error, TypeError) and options and ":" not in arch:  # torchvision's builders take any keyword
            raise ModelError(f"model {arch}: does not take options {labelled(dict(options))}: {reason}") from error
        how = f" with options {labelled(dict(options))}" if options else ""
        missing = f"; install {error.name!r} on every node" if isinstance(error, ModuleNotFoundError) else ""
        raise ModelError(
            f"model {arch}: the factory fails{how}: {type(error).__name__}: {reason}{line_in(error, folder)}{missing}"
        ) from error


@contextlib.contextmanager
def _settings_kept() -> Iterator[None]:
    """Restore what a run's arithmetic depends on, and was set before the factory: threads, default dtype, gradients."""
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def arguments_of(factory: Callable[..., Any], num_classes: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the call: the options, and the number of classes under the name that the factory has."""
    name = _name_of_count(factory)
    return {**({name: num_classes} if name and name not in options else {}), **options}


def takes_count(factory: Callable[..., Any]) -> bool:
    """Return whether a factory takes the number of classes."""
    return bool(_name_of_count(factory))


def _name_of_count(factory: Callable[..., Any]) -> str:
    """Return the parameter for the number of classes; empty if there is none."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables of C have none
        return NAMES[0]
    named = [name for name in NAMES if name in parameters]
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return named[0] if named else NAMES[0] if open_ended else ""


def _check_arguments(
    arch: str, factory: Callable[..., Any], arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        what = f"does not take options {labelled(dict(options))}" if options else "cannot be called"
        called = ", ".join(["num_classes=..."] * takes_count(factory) + [f"{name}=..." for name in options])
        raise ModelError(
            f"model {arch}: {what}: {error}; a factory is called as {arch.partition(':')[2] or arch}({called}), with "
            f"model.options as keywords, and takes {signature}"
        ) from error


def _refusal_of_connection(error: BaseException) -> ModelError | None:
    """Return the refusal of a connection that a library caught and raised again in its own words."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ModelError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def line_in(error: BaseException, folder: str) -> str:
    """Return ` (nets.py:12)`: the innermost line of a file of the folder that an error came through; else nothing."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if folder and Path(folder) in file.parents and "site-packages" not in file.parts:
            found = f" ({file.name}:{line})"
    return found
