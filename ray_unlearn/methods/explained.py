"""Errors of scripts that come of what a run differs in from the program that the script was written for.

    with explained("mine.py:unlearning", "challenge"):
        function(net, *loaders)                  # MethodError with the cause, where it is one of these

Does not cover: errors on import (`usercode.imports`), other errors, which stay as they are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ray_unlearn.errors import MethodError
from ray_unlearn.usercode.imports import line_in_script

_LONGEST = 120  # characters of an error's own text
_DICTS = "its batches are dicts with the keys image, image_id, age_group, age, person_id; age_group is the label"
_KEYS = r"^'(images?|imgs?|pixel_values|inputs?|labels?|targets?|data|features?|x|y)'$"
"""Keys that other loaders' batches have."""
_NO_GPU = "this worker has no GPU: use the net's own device, next(net.parameters()).device"
_OTHER_BATCHES = {
    "challenge": (
        r"(too many values|not enough values) to unpack|^0$|'dict' object has no attribute|not dict\b|found dict\b|"
        rf"'str' object has no attribute|\((dict|str)\b|, dict\b|{_KEYS}",
        f"{_DICTS}. If it expects (image, label), give the population `batches: tuple`",
    ),
    "tuple": (
        r"(list|tuple) indices must be integers",
        "`batches: tuple` gives [image, label]; if it expects dicts, leave the option away",
    ),
}
"""Form of the batches -> errors of functions that expect the other form, and what to do."""


@contextlib.contextmanager
def explained(method: str, batches: Literal["challenge", "tuple"]) -> Iterator[None]:
    """Say what a function got, where its error is one of a function that expects something else.

    Args:
        method: path/to/script.py:function.
        batches: the form of its batches.

    Raises:
        MethodError: the function raised such an error.

    """
    try:
        yield
    except (
        *(ValueError, TypeError, KeyError, AttributeError, FileNotFoundError, RuntimeError, AssertionError),
        *(EOFError, StopIteration),
    ) as error:
        hint = _about_files(error) or _about_machine(error) or _about_batches(error, batches)
        if not hint or not (line := line_in_script(error)):
            raise
        text = " ".join(str(error).split())[:_LONGEST]  # torch lists all forms of a function
        if hint == _NO_GPU:  # another worker may have one
            raise RuntimeError(f"{text}{line}; {hint}") from error
        raise MethodError(f"method {method}: {type(error).__name__}: {text}{line}; {hint}") from error


def _about_batches(error: Exception, batches: Literal["challenge", "tuple"]) -> str:
    pattern, hint = _OTHER_BATCHES[batches]
    expected = isinstance(error, ValueError | TypeError | KeyError | AttributeError)
    return hint if expected and re.search(pattern, str(error)) else ""


def _about_machine(error: Exception) -> str:
    """Return what to do where a function asks for a GPU, a keyboard, gradients or batches that a run has not."""
    if "does not require grad and does not have a grad_fn" in str(error):
        return "no gradients are computed here: by @torch.no_grad or inference_mode, or all parameters are frozen"
    if isinstance(error, EOFError) and "reading a line" in str(error):
        return "input() gets no answer in a run: give the function keyword arguments instead"
    if isinstance(error, StopIteration):
        return "next() found no further batch: an epoch is over; itertools.cycle begins again"
    if re.search(r"no NVIDIA driver|not compiled with CUDA|No CUDA GPUs are available", str(error)):
        return _NO_GPU
    return ""


def _about_files(error: Exception) -> str:
    """Return what to do where a file or folder is missing that is named from the working folder."""
    found = re.match(r"Parent directory (.*) does not exist", str(error))  # torch.save's words
    name = error.filename if isinstance(error, FileNotFoundError) else found and found[1]
    if not isinstance(name, str) or Path(name).is_absolute():
        return ""
    return (
        "the working folder of a run is empty, and goes afterwards: make folders in it first (os.makedirs), and find "
        "files beside the script by pathlib.Path(__file__).parent"
    )
