"""A weights file's bytes -> what it holds: tensors in dictionaries; or a refusal that says what the file is.

    tree = parse_weights(data, "resnet18.pth")   # safetensors, or torch.save's file read with weights_only=True alone

The format is found in the bytes, not in the name: `.pth`, `.pt`, `.bin`, `.ckpt`, `.pth.tar` and `.safetensors` are all
read. Nothing in a file is executed: a file that needs it is refused, with the lines that save it anew.

Does not cover: which of the tensors are the model's (`state_dicts`).
"""

from __future__ import annotations

import contextlib
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import safetensors.torch
import torch

from ray_unlearn.errors import ModelError
from ray_unlearn.study.uris import label, without_keys
from ray_unlearn.wording import first_of

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params", "network", "rmodel")
"""Keys under which files usually hold a state dict, the usual one first."""
_UNSUPPORTED = re.compile(r"(?:GLOBAL|Unsupported (?:class|global|operand)[^.\n]*?)\s+([A-Za-z_][\w.]*\.\w+)")
_DANGEROUS = re.compile(
    r"(os|posix|nt|subprocess|sys|runpy|socket|shutil|importlib|pty|ctypes|webbrowser|code|commands|pickle|http|urllib)\."
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|getattr|setattr|__import__|input|breakpoint|apply)$"
)
"""Functions that no weights need."""
_OLDEST = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Beginning of the files that torch.save wrote before version 1.6."""
_LONGEST = 300  # characters of a library's own words


def parse_weights(data: bytes, where: str) -> dict[str, Any]:
    """Return the dictionary that a weights file holds; its tensors may be in dictionaries inside it.

    Raises:
        ModelError: the bytes are of another format, or hold more than plain values, which only code could read.

    """
    loaded = read_safely(data, where)
    if isinstance(loaded, list | tuple) and any(isinstance(value, dict) for value in loaded):
        loaded = dict(enumerate(loaded))
    if not isinstance(loaded, dict):
        raise ModelError(f"{label(where)}: expected a dictionary of tensors; found {_words_of(loaded)}")
    return {str(key): value for key, value in loaded.items()}


def read_safely(data: bytes, where: str) -> Any:
    """Return what a file of safetensors or of torch.save holds: tensors, or plain values that hold them.

    Raises:
        ModelError: as `parse_weights`.

    """
    where = label(where)
    try:
        if _is_safetensors(data):
            return dict(safetensors.torch.load(data))
        if kind := _other_kind(data):
            raise ModelError(kind)
        _check_size(data)
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol; every real problem is an error
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ModelError as error:
        raise ModelError(f"{where}: not weights that can be read safely ({error})") from None
    except Exception as error:  # torch's reader raises a dozen kinds on damaged bytes
        raise ModelError(f"{where}: not weights that can be read safely ({_reason(error, data, where)})") from error


def _words_of(loaded: Any) -> str:
    return f"a {type(loaded).__name__}" + (f" of {len(loaded)}" if isinstance(loaded, list | tuple) else "")


def _check_size(data: bytes) -> None:
    """Refuse an archive that unpacks to more bytes than it has: torch stores tensors without compression."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        unpacked = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if unpacked > len(data):
            raise ModelError(f"a compressed archive: {len(data):,} bytes would unpack to {unpacked:,}")


# Other kinds of files

_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for: `git lfs pull` fetches that"),
    (b"\x1f\x8b", "an archive by gzip: unpack it, and name the file inside"),
    (b"BZh", "an archive by bzip2: unpack it, and name the file inside"),
    (b"\xfd7zXZ", "an archive by xz: unpack it, and name the file inside"),
    (b"(\xb5/\xfd", "an archive by zstd: unpack it, and name the file inside"),
    (b"7z\xbc\xaf", "an archive by 7-Zip: unpack it, and name the file inside"),
    (b"Rar!", "an archive by RAR: unpack it, and name the file inside"),
    (b"\x89HDF", "HDF5, as Keras writes: save the same net from PyTorch, as torch.save(net.state_dict(), FILE)"),
    (b"\x93NUMPY", "a NumPy array: save the tensors under the model's names, as safetensors or by torch.save"),
    (b"GGUF", "GGUF, weights of a language model that were quantised: name the file that they were made from"),
    (b"PAR1", "a Parquet file: it holds tables, as of images, not weights"),
    (b"ARROW1", "an Arrow file: it holds tables, as of outputs, not weights"),
)
_PICKLE = b"\x80"
"""First byte of a pickle, as torch.save wrote before version 1.6, and as pickle.dump writes."""
_ARCHIVES = (
    ("constants.pkl", "TorchScript"),
    ("serialized_exported_program.json", "torch.export"),
    ("archive_format", "torch.export"),
)


def _is_safetensors(data: bytes) -> bool:
    header = int.from_bytes(data[:8], "little")
    return len(data) > 9 and data[8:9] == b"{" and 1 < header <= len(data) - 8


def _other_kind(data: bytes) -> str:
    """Return what a file is that torch.save did not write, and what to do; empty if it may have."""
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        return "a web page or an error in HTML or XML, not the file: download it again, with a login if it needs one"
    if data[257:262] == b"ustar":
        return "an archive by tar: unpack it, and name the file inside"
    kind = next((kind for beginning, kind in _BEGINNINGS if text.startswith(beginning)), "")
    if kind or not data:
        return kind or "the file is empty"
    if data[8:9] == b"{" and b'"dtype"' in data[:4096]:
        return "safetensors, but cut off: the file is not complete; copy or download it again"
    if data.startswith(b"PK"):
        return _kind_of_archive(data)
    return _kind_of_text(text) or _kind_of_bytes(data)


def _kind_of_archive(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except Exception:  # damaged bytes raise many kinds
        return "a zip archive, as torch.save writes, but cut off or damaged: copy or download it again"
    for ending, kind in _ARCHIVES:
        if any(name.endswith(ending) for name in names):
            how = "torch.jit.load(FILE)" if kind == "TorchScript" else "torch.export.load(FILE).module()"
            return f"{kind}, a program with its weights: save the weights alone, as torch.save({how}.state_dict(), NEW)"
    if any(name.endswith("data.pkl") for name in names):
        return ""
    shown = first_of(names, 5)
    if names and all(name.endswith(".npy") for name in names):
        return f".npz, NumPy arrays ({shown}): save them as tensors, by safetensors or torch.save"
    return (
        f"a zip archive that torch.save did not write; it holds {shown or 'nothing'}: unpack it, and name a file inside"
    )


def _kind_of_bytes(data: bytes) -> str:
    if data[:1] == _PICKLE:
        return ""
    if data[:1] == b"\x08" and data[2:3] == b"\x12":
        return "ONNX, a program with its weights: save the weights of the net that it was made from"
    return f"neither safetensors nor what torch.save writes; it begins with the bytes {data[:8].hex(' ')}"


def _kind_of_text(text: bytes) -> str:
    beginning = text[:200]
    if not beginning or any(byte < 9 or 13 < byte < 32 or byte > 126 for byte in beginning):
        return ""
    line = beginning.decode().splitlines()[0]
    kind = "JSON, a list of shards" if b'"weight_map"' in text else "JSON" if beginning[:1] in b"{[" else "text"
    rest = "; a list of shards is read if its name ends in .index.json" if "shards" in kind else ""
    return f"{kind}, beginning with {line[:60]!r}{rest}"


# Files that only code could read


def _reason(error: Exception, data: bytes, where: str) -> str:
    """Return why torch refused a file: the objects in it by key and class and how to save it anew, or its own words."""
    found = list(_globals_of(data))
    refused = _UNSUPPORTED.findall(str(error)) + _unsafe(data)
    plain = data[:1] == _PICKLE and not data.startswith(_OLDEST)
    refused += [name for name, _ in found] if plain else []
    culprits = {key: name for name, key in reversed(found) if name in refused and name != "numpy.dtype"}
    if not culprits and not plain:
        return without_keys(_own_words(error))
    shown = ", ".join(f"{name} under {key!r}" for key, name in list(culprits.items())[::-1][:3])
    if dangerous := [name for name in culprits.values() if _DANGEROUS.match(name)]:
        return f"reading it would run {dangerous[0]}: it may be an attack, and nothing in it was run"
    name = PurePosixPath(where).name
    new = f"{name.partition('.')[0]}-weights.pth"
    wrapper = _wrapper_of(data)
    if plain:
        what, take = "a plain pickle, which torch.save did not write", ""
    elif found[0][0] in refused and not found[0][1]:
        what, take = f"a whole module of class {found[0][0]}, not its state dict", ".state_dict()"
    else:
        what = f"it holds objects in addition to the weights: {shown}"
        module = any(each.startswith("torch.nn.modules.") for each in culprits.values())
        take = (f"[{wrapper!r}]" if wrapper else "") + (".state_dict()" if module else "")
    load = (
        f"pickle.loads(pathlib.Path({name!r}).read_bytes())" if plain else f"torch.load({name!r}, weights_only=False)"
    )
    taken = f"found{take}" if take else "{name: torch.as_tensor(value) for name, value in found.items()}"
    return (
        f"{what}; only code could read it: where you trust the file, save the weights alone by python -c "
        f'"import pathlib, pickle, torch; found = {load}; torch.save({taken}, {new!r})" and name {new}'
    )


def _own_words(error: Exception) -> str:
    """Return the first sentence of an error, without colours, cut between words."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()) or type(error).__name__
    if len(text) <= _LONGEST:
        return text
    sentence = re.match(r".{20,}?[.:;](?=\s)", text[:_LONGEST])
    return sentence[0].rstrip(".:;") if sentence else text[:_LONGEST].rpartition(" ")[0] + " ..."


def _unsafe(data: bytes) -> list[str]:
    """Return the objects that torch would not make, where the format lets it say so."""
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    except Exception:  # an older format, or damaged bytes
        return []


def _pickles(data: bytes) -> Iterator[bytes]:
    """Yield the pickle in an archive of torch.save, or the file itself, of which the older format is several."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        yield data
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                yield archive.read(name)


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the operations of pickles, one after another; none of them is executed."""
    with contextlib.suppress(Exception):  # damaged, or the tensors' own bytes after the last pickle
        for pickle in _pickles(data):
            stream = io.BytesIO(pickle)
            while stream.tell() < len(pickle):
                for operation, argument, _ in pickletools.genops(stream):
                    yield operation.name, argument


def _globals_of(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield (class or function, the text that was read last before it: the key of the value) of a file's pickles."""
    texts: list[str] = []
    memo: dict[int, Any] = {}
    last: Any = None
    for name, argument in _opcodes(data):
        if "UNICODE" in name or name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
            last = str(argument)
            texts.append(last)
        elif name == "MEMOIZE":
            memo[len(memo)] = last
        elif "PUT" in name:
            memo[int(argument)] = last
        elif "GET" in name:
            last = memo.get(int(argument))
            texts += [last] if isinstance(last, str) else []
        elif name == "GLOBAL":
            last = None
            yield str(argument).replace(" ", "."), texts[-1] if texts else ""
        elif name == "STACK_GLOBAL":
            last = None
            yield ".".join(texts[-2:]), texts[-3] if len(texts) > 2 else ""
        else:
            last = None


def _wrapper_of(data: bytes) -> str:
    """Return the usual key of a state dict that a file's pickle names; empty if there is none."""
    named = [str(argument) for name, argument in _opcodes(data) if "UNICODE" in name]
    return next((key for key in named if key in WRAPPERS), "")
