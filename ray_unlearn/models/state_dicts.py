"""Which tensors of a file are a model's: state dicts in any usual wrapping, under any prefix.

    found = fitted(tree, model, "resnet18.pth")
    found.state, found.notes                     # the model's own names -> tensors; lines about what was done

A file's dictionaries are candidates. One fits if its names are the model's after

- a prefix is taken away (`module.`, `model.net.`, any other): tensors beside it are left out;
- the words that DistributedDataParallel, FSDP and torch.compile add are taken away, wherever they are in a name;
- the prefix that the model's own names begin with is added;
- different prefixes are taken away, if only one tensor ends in each of the model's names and has its shape.

If several fit, the usual key comes first, and averages (`ema`, `teacher`, ...) last; `key` names another. Counts of
batches and tied tensors that a file lacks are filled in. Everything else has to agree, name by name.

Does not cover: shapes and dtypes (`weights.load_weights`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import ModelError, did_you_mean
from ray_unlearn.models.image_scales import Scales, scale_word, scales_among, scales_beside
from ray_unlearn.models.weight_files import WRAPPERS

_ADDED = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""Components that wrappers of torch add to names."""
_AVERAGES = re.compile(r"ema|teacher|target|momentum|swa|averag|shadow")
_LEFTOVERS = ("total_ops", "total_params", "n_averaged")  # of thop and of torch's AveragedModel
_USUAL = WRAPPERS[:4]
_COUNT = "num_batches_tracked"
_DEEPEST = 4  # dictionaries inside each other
_SHOWN = 8  # names in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """The tensors of one dictionary of a file."""

    path: str
    """Keys that lead to it, with dots; empty for the file itself."""
    tensors: Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A way to read a model's tensors from a candidate."""

    candidate: Candidate
    names: Mapping[str, str]
    """Model's name -> the file's."""
    how: str = ""
    """What was done with the names, in words."""
    prefix: str = ""
    beside: tuple[str, ...] = ()
    """Names in the file that are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A model's tensors as a file has them."""

    state: Mapping[str, torch.Tensor]
    notes: tuple[str, ...] = ()
    normalisation: Scales | None = None
    """Mean and standard deviation, of pixels in 0..1, by which the file's net scaled its images; None without."""
    named: Scales | None = None
    """Those that the file names beside the weights: probably of the images that its net was trained on."""


@dataclass(frozen=True, slots=True)
class Own:
    """A model's own tensors."""

    state: Mapping[str, torch.Tensor]
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name -> the other names of the same memory."""

    @classmethod
    def of(cls, model: nn.Module) -> Own:
        """Return those of a model."""
        state, places = model.state_dict(), dict[tuple[Any, ...], list[str]]()
        for name, tensor in state.items():
            if tensor.numel():
                places.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), []).append(name)
        tied = {name: tuple({*names} - {name}) for names in places.values() if len(names) > 1 for name in names}
        return cls(state, tied)

    def missing(self, names: Mapping[str, str]) -> list[str]:
        """Return the tensors that are neither among the names nor can be filled in."""
        return [
            name
            for name in self.state
            if name not in names
            and not name.endswith(_COUNT)
            and not any(other in names for other in self.tied.get(name, ()))
        ]


def fitted(
    tree: Mapping[str, Any], model: nn.Module, where: str, key: str | None = None, but: Collection[str] = ()
) -> Fitted:
    """Return a model's tensors from what a file holds.

    Args:
        tree: the file's dictionary.
        model: the model.
        where: the file, for messages.
        key: key of the state dict in the file, or the first part of its tensors' names; None for the usual one.
        but: the model's tensors that the file may lack, or have under the same modules with other names.

    Raises:
        ModelError: no dictionary fits, or two do and neither is the usual one.

    """
    own = Own.of(model)
    found = sorted(candidates(tree), key=lambda one: _rank(one.path))
    if key is not None:
        found = _chosen(found, key, where)
    if not any(one.tensors for one in found):
        raise ModelError(f"{where}: expected a dictionary of tensors; found {_keys(tree)}")
    fits = [fit for one in found for fit in _fits(own, one)]
    if not fits and but:
        own = replace(own, state={name: tensor for name, tensor in own.state.items() if name not in but})
        fits = [fit for one in found for fit in _fits(own, _without_modules(one, but))]
    if not fits:
        raise ModelError(f"{where}: {_why_none_fits(own, found, where)}")
    first, *others = sorted(fits, key=lambda fit: _rank(fit.candidate.path) + _rank(fit.prefix))
    _check_one(first, others, where)
    return replace(_filled(own, first, others), named=scales_beside(tree, first.candidate.path))


def _without_modules(one: Candidate, names: Collection[str]) -> Candidate:
    """Return a candidate without these tensors, and without all others of their modules, under any prefix."""
    modules = tuple(f".{name.rpartition('.')[0]}." for name in names if "." in name)
    left_out = [name for name in one.tensors if name in names or any(module in f".{name}" for module in modules)]
    kept = {name: tensor for name, tensor in one.tensors.items() if name not in left_out}
    return replace(one, tensors=kept)


def candidates(tree: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[Candidate]:
    """Yield the dictionaries of a file that hold tensors under names."""
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, torch.Tensor)}
    if tensors and all(isinstance(name, str) for name in tree):
        yield Candidate(path=path, tensors=tensors)
    for name, value in tree.items():
        if isinstance(value, Mapping) and depth < _DEEPEST and "optim" not in str(name).lower():
            yield from candidates(value, f"{path}.{name}" if path else str(name), depth + 1)


def _chosen(found: list[Candidate], key: str, where: str) -> list[Candidate]:
    named = [one for one in found if one.path == key or one.path.startswith(f"{key}.")]
    start = f"{key.removesuffix('.')}."
    below = [
        replace(one, tensors={name.removeprefix(start): t for name, t in one.tensors.items() if name.startswith(start)})
        for one in found
    ]
    chosen = named or [one for one in below if one.tensors]
    if not chosen:
        valid = [one.path for one in found if one.path] + sorted({name.partition(".")[0] for name in found[0].tensors})
        raise ModelError(f"{where}: no key {key!r}{did_you_mean(key, valid)}")
    return chosen


def _rank(path: str) -> tuple[bool, int]:
    """Return the order of a key or prefix: averages last, usual words first."""
    words = path.lower().split(".")
    known = [WRAPPERS.index(word) for word in words if word in WRAPPERS]
    return bool(_AVERAGES.search(path.lower())), 0 if not path else min(known, default=len(WRAPPERS)) + 1


# Ways to read names


def _fits(own: Own, one: Candidate) -> list[Fit]:
    """Return the ways to read all of a model's tensors from a candidate: the first kind of way that works."""
    plain = {name: name for name in one.tensors}
    if own.state.keys() == plain.keys():
        return [Fit(candidate=one, names=plain)]
    without = {_ADDED.sub("", name): name for name in one.tensors}
    renamings = [plain] + ([without] if len(without) == len(plain) and without.keys() != plain.keys() else [])
    for names in map(_with_new_norms, renamings):
        how = "" if names is plain or names.keys() == plain.keys() else _added_words(one)
        for way in (_as_they_are, _below_prefix, _with_prefix):
            if fits := [replace(fit, how=" and ".join(filter(None, (how, fit.how)))) for fit in way(own, one, names)]:
                return fits
    return list(_by_ending(own, one, without if len(without) == len(plain) else plain))


def _added_words(one: Candidate) -> str:
    words = sorted({match.strip(".") for name in one.tensors for match in _ADDED.findall(name)})
    return f"without {' and '.join(repr(f'{word}.') for word in words)} in the names" if words else "with newer names"


def _as_they_are(own: Own, one: Candidate, names: Mapping[str, str]) -> Iterator[Fit]:
    surplus = [name for name in names if name not in own.state]
    if not own.missing(names) and all(_is_left_over(name) for name in surplus):
        yield _fit(own, one, names)


def _below_prefix(own: Own, one: Candidate, names: Mapping[str, str]) -> Iterator[Fit]:
    for prefix in _prefixes(own, names):
        below = {name.removeprefix(prefix): names[name] for name in names if name.startswith(prefix)}
        surplus = [name for name in below if name not in own.state]
        if not own.missing(below) and all(_is_left_over(name) for name in surplus):
            yield replace(_fit(own, one, below), how=f"without the prefix {prefix!r} of the names", prefix=prefix)


def _prefixes(own: Own, names: Mapping[str, str]) -> list[str]:
    """Return what may stand before the model's names in the file: before the first name that cannot be filled in."""
    wanted = next((f".{name}" for name in own.state if not name.endswith(_COUNT) and name not in own.tied), "")
    wanted = wanted or next((f".{name}" for name in own.state), ".")
    return [name.removesuffix(wanted) + "." for name in names if name.endswith(wanted)]


def _with_prefix(own: Own, one: Candidate, names: Mapping[str, str]) -> Iterator[Fit]:
    """Yield the way for a model that wraps the net of the file."""
    parts = [name.split(".") for name in own.state]
    common = 0
    while parts and all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
        prefix = ".".join(parts[0][:common]) + "."
        longer = {prefix + name: names[name] for name in names}
        if not own.missing(longer) and all(name in own.state for name in longer):
            yield replace(_fit(own, one, longer), how=f"with the prefix {prefix!r} before the names")
            return


def _by_ending(own: Own, one: Candidate, names: Mapping[str, str]) -> Iterator[Fit]:
    endings: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            endings.setdefault(".".join(parts[start:]), []).append(name)
    chosen = {}
    for name, tensor in own.state.items():
        same = [each for each in endings.get(name, ()) if one.tensors[names[each]].shape == tensor.shape]
        if len(same) == 1:
            chosen[name] = names[same[0]]
    if own.missing(chosen) or len({*chosen.values()}) != len(one.tensors) or not chosen:
        return
    starts = sorted({file.removesuffix(name) for name, file in chosen.items()} - {""})
    yield replace(_fit(own, one, chosen), how=f"without the prefixes {', '.join(map(repr, starts))} of the names")


def _fit(own: Own, one: Candidate, names: Mapping[str, str]) -> Fit:
    chosen = {name: file for name, file in names.items() if name in own.state}
    beside = tuple(name for name in one.tensors if name not in {*chosen.values()})
    return Fit(candidate=one, names=chosen, beside=beside)


def _with_new_norms(names: Mapping[str, str]) -> Mapping[str, str]:
    """Return names with those of the old weight_norm as torch.nn.utils.parametrizations has them."""
    if not any(name.endswith(".weight_g") for name in names):
        return names
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {re.sub(r"weight_[gv]$", lambda match: new[match[0]], name): file for name, file in names.items()}


def _is_left_over(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in _LEFTOVERS or scale_word(name) != ""


# The chosen way


def _check_one(first: Fit, others: list[Fit], where: str) -> None:
    """Check that no other dictionary of the file has the same claim."""
    place = (_rank(first.candidate.path), _rank(first.prefix))
    same = [fit for fit in others if (_rank(fit.candidate.path), _rank(fit.prefix)) == place]
    if same:
        shown = ", ".join(repr(_place(fit)) for fit in (first, *same))
        raise ModelError(f"{where}: it holds the model {1 + len(same)} times, under {shown}; name one by `key`")


def _place(fit: Fit) -> str:
    return ".".join(filter(None, (fit.candidate.path, fit.prefix.removesuffix("."))))


def _filled(own: Own, fit: Fit, others: list[Fit]) -> Fitted:
    state = {name: fit.candidate.tensors[file] for name, file in fit.names.items()}
    counts, tied = [], []
    for name, tensor in own.state.items():
        partner = next((other for other in own.tied.get(name, ()) if other in state), None)
        if name not in state and partner:
            state[name] = state[partner]
            tied.append(f"{name!r} is not in it, and is tied to {partner!r}")
        elif name not in state:
            state[name] = torch.zeros_like(tensor)
            counts.append(name)
    scales, taken = scales_among({name: fit.candidate.tensors[name] for name in fit.beside})
    rest = [name for name in fit.beside if name not in taken]
    path = fit.candidate.path
    notes = [
        f"read from its key {path!r}" if path and path not in _USUAL else "",
        f"read {fit.how}" if fit.how else "",
        f"{len(rest)} of its tensors are left out: {_listed(rest)}" if rest else "",
        f"{_COUNT} of {len(counts)} layers is not in it (PyTorch before 0.4.1); counted from 0" if counts else "",
        *tied,
        f"it also holds {', '.join(repr(_place(other)) for other in others)}; `key` chooses" if others else "",
    ]
    ordered = {name: state[name] for name in own.state}
    return Fitted(state=ordered, notes=tuple(filter(None, notes)), normalisation=scales)


# Why nothing fits

_STATISTICS = ("running_mean", "running_var")


def _why_none_fits(own: Own, found: list[Candidate], where: str) -> str:
    one, names = _nearest(own, found)
    if kind := _special(one, where):
        return kind
    count = f"{sum(name in own.state for name in names):,} of the model's {len(own.state):,} names are in it"
    inside = f" under {one.path!r}" if one.path else ""
    if missing := own.missing(names):
        if all(name.rpartition(".")[2] in _STATISTICS for name in missing):
            return (
                f"no tensor {missing[0]!r}{inside}: parameters alone, without the running statistics of batch "
                f"normalisation, which the model's outputs depend on ({count}); save net.state_dict(), which holds both"
            )
        hint = did_you_mean(missing[0], [name for name in names if name not in own.state])
        return f"no tensor {missing[0]!r}{inside}, which the model has{hint}; is model.arch the right one? ({count})"
    surplus = sorted(name for name in names if name not in own.state and not _is_left_over(name))
    return (
        f"tensor {surplus[0]!r}{inside} is not in the model ({len(surplus)} such); is model.arch the right one? "
        f"({count})"
    )


def _nearest(own: Own, found: list[Candidate]) -> tuple[Candidate, Mapping[str, str]]:
    """Return the candidate, and its names without the prefix, that have most of the model's names."""
    best: tuple[int, Candidate, Mapping[str, str]] = (-1, found[0], {})
    for one in found:
        plain = {name: name for name in one.tensors}
        heads = {"", *(f"{name.split('.')[0]}." for name in plain), *_prefixes(own, plain)}
        for prefix in sorted(heads, key=len)[:50]:
            names = {name.removeprefix(prefix): name for name in plain if name.startswith(prefix)}
            count = sum(name in own.state for name in names)
            if count > best[0]:
                best = count, one, names
    return best[1], best[2]


def _special(one: Candidate, where: str) -> str:
    """Return what a state dict of another kind is, and what to do; else nothing."""
    names = list(one.tensors)
    if any(name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in one.tensors for name in names):
        shown = _listed([name for name in names if name.endswith(("_mask", "_orig"))])
        return (
            f"weights of a pruned net, as torch.nn.utils.prune keeps them ({shown}): call prune.remove(module, "
            "'weight') for each of its modules, and save it again"
        )
    if any(tensor.is_quantized for tensor in one.tensors.values()) or any(
        "_packed_params" in name or name.endswith((".zero_point", ".qweight", ".scb", ".SCB")) for name in names
    ):
        return f"weights of a quantised net ({_listed(names)}): name the weights that it was made from"
    if any(".lora_" in name for name in names):
        return (
            f"weights of adapters alone ({_listed(names)}): merge them into the net (merge_and_unload), and save that"
        )
    if match := re.search(r"-(\d+)-of-(\d+)\.\w+$", where):
        return f"shard {int(match[1])} of {int(match[2])}: name the list of shards, the file that ends in .index.json"
    return ""


def _keys(tree: Mapping[str, Any]) -> str:
    if not tree:
        return "an empty dictionary"
    return f"a dictionary with {_listed([f'{key} ({type(value).__name__})' for key, value in tree.items()])}"


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
