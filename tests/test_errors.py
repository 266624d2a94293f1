"""The tree of errors: as drawn, picklable, and each with its exit code."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import re
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_unlearn import errors
from ray_unlearn.cli import main
from ray_unlearn.errors import Interrupted, RayUnlearnError, StoreError, did_you_mean, first_line, write_text

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__ and issubclass(value, BaseException)
}


def drawn() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read the tree in the docstring: class -> (its parent, its exit codes)."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│├└─ ]*)([A-Z]\w+)(.*)", line)
        if not match:
            continue
        indent, name, rest = len(match[1]), match[2], match[3]
        while path and path[-1][0] >= indent:
            path.pop()
        codes = re.search(r"  (\d+(?: \| \d+)*)$", rest)
        found[name] = (path[-1][1] if path else "", tuple(map(int, codes[1].split(" | "))) if codes else ())
        path.append((indent, name))
    return found


def test_the_tree_that_is_drawn_is_the_tree_that_is() -> None:
    """Every class of the module is below its parent, and nothing else is drawn."""
    tree = {name: parent for name, (parent, _) in drawn().items() if name not in ("BaseException", "Exception")}
    assert tree == {name: value.__bases__[0].__name__ for name, value in CLASSES.items()}
    assert all(len(value.__bases__) == 1 for value in CLASSES.values())


def test_the_exit_codes_that_are_drawn_are_those_of_the_classes() -> None:
    """By class, and of an interruption by its signal."""
    codes = {name: drawn()[name][1] for name in CLASSES}
    assert codes.pop("Interrupted") == tuple(
        Interrupted(number).exit_code for number in (signal.SIGINT, signal.SIGTERM)
    )
    assert codes == {name: (CLASSES[name].exit_code,) for name in codes}  # type: ignore[attr-defined]


def test_an_error_survives_pickling_with_its_message() -> None:
    """Workers' errors cross processes: a class with arguments of its own has to see to that."""
    for name in sorted(set(CLASSES) - {"Interrupted"}):
        error = CLASSES[name]("study.yaml: data: missing")
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert (type(again), str(again)) == (type(error), "study.yaml: data: missing")


def test_an_interruption_survives_pickling_and_states_its_signal() -> None:
    """Its number is kept, not only its text."""
    again = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))  # noqa: S301 - our own bytes
    assert again.exit_code == 143
    assert str(again) == "interrupted by SIGTERM"


def test_no_run_can_swallow_an_interruption() -> None:
    """`except Exception` in a method lets it pass, and stops every other error of ours."""
    with pytest.raises(Interrupted), contextlib.suppress(Exception):
        raise Interrupted(signal.SIGTERM)
    with contextlib.suppress(Exception):
        raise RayUnlearnError("a study is wrong")


@pytest.mark.parametrize(
    ("found", "valid", "hint"),
    [
        ("adm", ["sgd", "adam", "adamw"], " (did you mean 'adam'?)"),
        ("zoom", ["flip", "crop"], " (valid: crop, flip)"),
        ("x", [], ""),
        ("?", [f"key{i:02d}" for i in range(13)], f" (valid: {', '.join(f'key{i:02d}' for i in range(12))}, ...)"),
    ],
)
def test_a_hint_is_the_nearest_name_or_the_first_twelve(found: str, valid: list[str], hint: str) -> None:
    """One near name, else what there is, in order; nothing where there is nothing."""
    assert did_you_mean(found, valid) == hint


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n one\rtwo"), "one"),
        (ValueError(), "ValueError"),
        (OSError(" \n"), "OSError"),
    ],
)
def test_an_error_always_has_a_first_line(error: Exception, line: str):
    """Law: its text's, or its type's name where there is no text but spaces."""
    assert first_line(error) == line


@contextlib.contextmanager
def files_up_to(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path):
    """Law: a full disk leaves no half or empty file, which would be refused as existing, and an older one as it was."""
    new, old, link = tmp_path / "new.yaml", tmp_path / "old.yaml", tmp_path / "link.yaml"
    write_text(old, "a: 1\n")
    link.symlink_to(old)
    for file in (new, old, link):
        with files_up_to(4), pytest.raises(StoreError, match=rf"{file.name}: cannot be written: File too large"):
            write_text(file, "a: 2\nb: 3\n")
    assert {path.name for path in tmp_path.iterdir()} == {"old.yaml", "link.yaml"}
    assert old.read_text() == "a: 1\n"
    write_text(link, "a: 2\n")
    assert (link.is_symlink(), old.read_text()) == (True, "a: 2\n")
    with pytest.raises(StoreError, match=r"/proc/new\.yaml: cannot be written"):
        write_text(Path("/proc/new.yaml"), "a: 2\n")
    write_text(Path("/dev/null"), "a: 2\n")
    assert Path("/dev/null").is_char_device()


def test_a_text_goes_into_a_pipe_and_a_file_keeps_its_mode(tmp_path: Path):
    """Law: `--output /dev/stdout | less` works; a private file stays private, and a long name is one clear line."""
    reader, writer = os.pipe()
    write_text(Path(f"/dev/fd/{writer}"), "a: 1\n")
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "a: 1\n"
    private = tmp_path / "private.yaml"
    private.touch(0o600)
    write_text(private, "a: 1\n")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    with pytest.raises(StoreError, match="cannot be written: File name too long"):
        write_text(tmp_path / ("a" * 300), "a: 1\n")


def test_every_command_that_writes_a_study_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Law: after a full disk, the same command writes the file that it could not write."""
    for command in (["init"], ["init", "--template", "deletion"], ["examples", "studies/faces.yaml"]):
        file = tmp_path / "study.yaml"
        with files_up_to(9):
            assert main([*command, str(file)]) == 1
        assert "study.yaml: cannot be written" in capsys.readouterr().err
        assert main([*command, str(file)]) == 0
        file.unlink()
