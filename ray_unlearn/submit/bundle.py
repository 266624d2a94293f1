"""A study -> the small folder that is sent to a cluster, without the data that the cluster must have already.

    parcel = pack("faces.yaml", ["storage=s3://bucket/studies"])
    folder = parcel.write()                      # the working_dir: study.yaml and the files that it names
    parcel.submission_id(1)                      # faces-1a2b3c4d-a1

Sent files: the study with its overrides merged in; method scripts, with the modules that they import from their own
folder; a factory `arch: package.module:factory` in the study file's folder, with its modules; a CSV of ids to forget;
weights given by a relative path. Data and storage are not sent: every node must see them, so relative paths to them are
refused. The digest covers all sent files and the stage, so that the same submission always has the same name.

A study by another person could name any file of this user. So only files in the study's folder are sent, after
symbolic links are followed, and files that the caller allows by name; `Parcel.lines` lists them for the user.

Does not cover: modules that a script imports by a computed name, and files that it opens (put those where every node
sees them); factories in other folders (the cluster has them installed); communication with a cluster
(`cluster.job_server`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ray_unlearn.errors import StudyError, first_line
from ray_unlearn.study.identity import digest
from ray_unlearn.study.loading import parse_study, places_of, read_tree
from ray_unlearn.study.schema import Study
from ray_unlearn.study.yaml12 import parse_yaml
from ray_unlearn.submit import folder_cache
from ray_unlearn.usercode.sources import module_files, script_modules, sha256_of

Stage = Literal["all", "prepare", "generate", "evaluate", "report"]

STUDY = "study.yaml"
LIMIT_BYTES = 512 * 2**20
"""Ray's limit for a working_dir (ray/_private/runtime_env/packaging.py)."""
_EMBEDDED = ("digits", "cifar10", "given")
_TEMPORARY = "working_dir_files"
_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """Files that are sent to the cluster for one stage of one study."""

    study: str
    """The study's name."""
    storage: str
    stage: Stage
    text: str
    """Text of the study file in the working_dir."""
    files: Mapping[str, Path]
    """Name in the working_dir -> the file on this machine."""
    digest: str
    """8 hex digits over stage, study and every file's content."""

    @property
    def prefix(self) -> str:
        """Beginning of every attempt's submission id."""
        stage = "" if self.stage == "all" else f"{self.stage}-"
        return f"{self.study}-{stage}{self.digest}-a"

    def submission_id(self, attempt: int) -> str:
        """Return Ray's name for the job; `attempt` counts from 1."""
        return f"{self.prefix}{attempt}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all sent files, before Ray compresses them."""
        return len(self.text.encode()) + sum(path.stat().st_size for path in self.files.values())

    def lines(self) -> list[str]:
        """Return a line for each sent file, with its name there and here; this package's files are one line."""
        ours = [name for name in self.files if name.startswith(f"{_PACKAGE}/")]
        named = [f"{name} from {path}" for name, path in sorted(self.files.items()) if name not in ours]
        return [f"{STUDY}, overrides merged in", *named, *([f"{_PACKAGE}/, {len(ours)} files"] if ours else [])]

    def write(self, parent: Path | None = None) -> Path:
        """Write the working_dir, unless it exists; return it.

        It is kept for a day at least, so that the `ray job submit` line can be repeated; older ones are removed. Only
        this user may read it, because a URI may hold keys.
        """
        parent = parent or Path.home() / ".cache" / "ray_unlearn" / "submit"
        folder = parent / self.prefix.removesuffix("-a")
        parent.mkdir(parents=True, exist_ok=True)
        with folder_cache.locked(parent):
            if folder.is_dir():
                os.utime(folder)
            else:
                self._fill(folder)
            folder_cache.sweep(parent)
        return folder

    def _fill(self, folder: Path) -> None:
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
        (new / STUDY).write_text(self.text, encoding="utf-8")
        for name, path in self.files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new / name)
        try:
            new.rename(folder)
        except OSError:  # without locks: another submission of the same study was quicker
            shutil.rmtree(new)


def pack(
    file: str | Path, overrides: list[str], *, stage: Stage = "all", ship_code: bool = False, send: Sequence[Path] = ()
) -> Parcel:
    """Return the files to send.

    Args:
        file: the study file.
        overrides: `a.b=value`, merged into the study that is sent.
        stage: the job's command; `all` is all of them.
        ship_code: send this installation's ray_unlearn, too, for clusters that have none, or another version.
        send: files outside the study's folder that may be sent, and folders whose files may be sent.

    Raises:
        StudyError: the study is wrong, names data that no cluster can see, or a file that may not be sent; or the files
            are too large.
        MethodError: a script, a factory, or a module that one imports from its own folder, is not Python.

    """
    written, tree = read_tree(file, overrides, absolute=False), read_tree(file, overrides)
    study = parse_study(tree, where=places_of(file, overrides))
    _check_paths(str(file), written)
    _check_methods(study)
    tree["storage"] = _without_slash(study.storage)
    files: dict[str, Path] = {}
    names = _Names(files)
    _take_ids(tree, written, names)
    _take_pretrained(tree, written, names)
    files |= _factory_files(study.model.arch, Path(file).parent)
    for population in study.populations:
        _take_population(tree["populations"][population], written["populations"][population], names)
    _check_allowed(Path(file), files, send)
    if ship_code:
        files |= dict(_package())
    text = f"# As submitted: overrides merged in, paths resolved.\n{_json(tree, str(file))}\n"
    _check_size(study.name, files)
    contents = {name: sha256_of(path) for name, path in sorted(files.items())}
    return Parcel(
        study=study.name,
        storage=tree["storage"],
        stage=stage,
        text=text,
        files=files,
        digest=digest({"stage": stage, "study": text, "files": contents})[:8],
    )


class _Names:
    """Names of files in the working_dir; files of one folder here are in one folder there."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files, self._folders = files, dict[Path, str]()

    def take(self, path: Path) -> str:
        """Return the file's name in the working_dir."""
        if not path.is_file():
            raise StudyError(f"{path}: no such file; the study names it by a relative path, so it is sent with the job")
        folder = self._folders.setdefault(path.parent, f"files/{len(self._folders)}")
        self._files[f"{folder}/{path.name}"] = path
        return f"{folder}/{path.name}"

    def take_module(self, script: Path, path: Path) -> None:
        """Add a module that a script imports, at the same path relative to the script."""
        self._files[f"{self._folders[script.parent]}/{path.relative_to(script.parent)}"] = path


def _take_ids(tree: dict[str, Any], written: dict[str, Any], names: _Names) -> None:
    forget = tree["data"]["forget"]
    ids = forget.get("ids")
    if isinstance(ids, str) and (Path(ids).is_file() or _is_relative(written["data"]["forget"]["ids"])):
        tree["data"] = tree["data"] | {"forget": forget | {"ids": names.take(Path(ids))}}


def _take_pretrained(tree: dict[str, Any], written: dict[str, Any], names: _Names) -> None:
    path = tree.get("model", {}).get("pretrained")
    if isinstance(path, str) and _is_relative(written["model"]["pretrained"]):
        tree["model"] = tree["model"] | {"pretrained": names.take(Path(path))}
        for shard in _shards(Path(path)):
            names.take(shard)


def _take_population(spec: dict[str, Any], written: dict[str, Any], names: _Names) -> None:
    """Replace the paths of a population's script and weights by their names in the working_dir."""
    script, _, function = str(spec.get("method", "")).rpartition(":")
    if script.endswith(".py") and (Path(script).is_file() or _is_relative(written["method"])):
        spec["method"] = f"{names.take(Path(script))}:{function}"
        for module in script_modules(Path(script)):
            names.take_module(Path(script), module)
    if spec.get("weights") is not None:
        files, originals = _listed(spec["weights"]), _listed(written["weights"])
        if len(files) != len(originals):  # a glob, a folder or a CSV file stands for several
            originals = [next(filter(_is_relative, originals), originals[0])] * len(files)
        pairs = list(zip(files, originals, strict=True))
        spec["weights"] = [names.take(Path(path)) if _is_relative(original) else path for path, original in pairs]
        for path, original in pairs:
            for shard in _shards(Path(path)) if _is_relative(original) else ():
                names.take(shard)


def _shards(file: Path) -> list[Path]:
    """Return the files beside a list of shards (`model.safetensors.index.json`) that it names; none for other files."""
    if not file.name.endswith(".index.json"):
        return []
    try:
        names = {*json.loads(file.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # the job's own reader says what is wrong with it
    return [file.parent / name for name in sorted(map(str, names)) if Path(name).name == name]


def _factory_files(arch: str, folder: Path) -> dict[str, Path]:
    """Return the modules of a factory in the study's folder, for the top of the working_dir, from where a job imports.

    They take precedence over packages of the same name that the cluster has installed.
    """
    name = arch.partition(":")[0].partition(".")[0] if ":" in arch else ""
    return {str(path.relative_to(folder)): path for path in (module_files(folder, name) if name else ())}


def _package() -> Iterator[tuple[str, Path]]:
    """Yield this package's own files, but for the rooms' documents, which no code reads."""
    package = Path(__file__).resolve().parents[1]
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
            yield f"{package.name}/{path.relative_to(package)}", path


def _check_paths(where: str, written: dict[str, Any]) -> None:
    """Refuse relative paths of data and storage, and a storage that Ray would delete."""
    storage = str(written["storage"])
    if _is_relative(storage):
        raise StudyError(
            f"{where}: storage: {storage} is relative, and the cluster's nodes are other machines; give what all of "
            "them see: --set storage=s3://bucket/prefix, gs://bucket/prefix or /an/absolute/mount"
        )
    if _TEMPORARY in Path(storage).parts:
        raise StudyError(f"{where}: storage: {storage} is inside a job's temporary folder, which Ray deletes")
    others = (written.get("evaluation") or {}).get("populations")
    for name, path in others.items() if isinstance(others, dict) else ():
        if isinstance(path, str) and _is_relative(path):
            raise StudyError(
                f"{where}: evaluation.populations.{name}: {path} is relative, and stores are not sent with a job; name "
                "a folder that every node sees"
            )
    for part in ("train", "test", "validation"):
        value = written["data"].get(part)
        paths = (
            [*_listed(value.get("path")), *_listed(value.get("images"))] if isinstance(value, dict) else _listed(value)
        )
        for path in paths:
            if path not in _EMBEDDED and _is_relative(path):
                raise StudyError(
                    f"{where}: data.{part}: {path} is relative, and images are not sent with a job; put them where "
                    f"every node sees them: --set data.{part}=s3://bucket/{Path(path).name} or /an/absolute/mount"
                )


def _check_methods(study: Study) -> None:
    """Refuse an unknown method or option here, not in a job's log; scripts and weights are checked by the job."""
    from ray_unlearn.methods.resolve import resolve

    for name, spec in study.populations.items():
        if spec.method is not None and ".py:" not in spec.method:
            resolve(study, name)


def _check_allowed(study: Path, files: Mapping[str, Path], send: Sequence[Path]) -> None:
    """Refuse files that are neither in the study's folder nor allowed by `send`, after symbolic links are followed."""
    allowed = [study.resolve().parent, *(path.resolve() for path in send)]
    for path in files.values():
        real = path.resolve()
        if not any(real == one or one in real.parents for one in allowed):
            raise StudyError(
                f"{study}: {path} is outside the study's folder{f', at {real}' if real != path else ''}, and would be "
                f"sent to the cluster; copy it into the folder, or allow it: --send {real}"
            )


def _check_size(study: str, files: Mapping[str, Path]) -> None:
    sizes = {path: path.stat().st_size for path in files.values()}
    if sum(sizes.values()) <= LIMIT_BYTES:
        return
    largest = max(sizes, key=lambda path: sizes[path])
    raise StudyError(
        f"{study}: {sum(sizes.values()) / 2**20:,.0f} MiB would be sent, expected at most {LIMIT_BYTES // 2**20}; the "
        f"largest file is {largest} ({sizes[largest] / 2**20:,.0f} MiB): put it where every node sees it, and name it "
        "by its absolute path or URI"
    )


def _without_slash(storage: str) -> str:
    """Return a storage's name without a final slash: `s3://bucket/x/` and `s3://bucket/x` are the same storage."""
    path, mark, query = storage.partition("?" if "://" in storage else "\0")
    bare = path.rstrip("/")
    return (path if bare.endswith(":") or not bare else bare) + mark + query


def _listed(value: Any) -> list[str]:
    """Return a path or a list of paths as a list, without values that are no text."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _is_relative(path: str) -> bool:
    """Return whether a path has a meaning on this machine only: `~` is another folder on another machine."""
    return "://" not in path and not Path(path).is_absolute()


def _json(tree: dict[str, Any], where: str) -> str:
    """Return JSON, which YAML 1.2 reads back to the same values, also texts that look like other values."""
    try:
        text = json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False)
        if parse_yaml(text) == tree:
            return text
        reason = "it reads back differently"
    except (TypeError, ValueError, yaml.YAMLError) as error:
        reason = first_line(error)
    raise StudyError(f"{where}: the study cannot be sent: expected plain, finite, printable values: {reason}")
