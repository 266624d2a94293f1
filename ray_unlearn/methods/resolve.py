"""A population of a study -> its method with validated options, and the method that a worker runs.

    uses = {name: resolve(study, name) for name in study.populations}
    method = method_of(uses["finetune"])         # the same on every machine

Does not cover: digests (`ray_unlearn.study.plan` builds them from what is returned here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ray_unlearn.errors import MethodError, StudyError, did_you_mean
from ray_unlearn.methods import METHODS, Method
from ray_unlearn.methods.form import check_script_form
from ray_unlearn.methods.keywords import checked, hidden
from ray_unlearn.methods.rescaling import rescales
from ray_unlearn.methods.script import ScriptOptions, script_method
from ray_unlearn.methods.unrepeatable import draws_anew
from ray_unlearn.models import open_weights
from ray_unlearn.store.records import IMPORTED
from ray_unlearn.study.identity import identity_of
from ray_unlearn.study.plan import ORIGINAL, MethodUse
from ray_unlearn.study.recipe import Batches
from ray_unlearn.study.schema import Study
from ray_unlearn.study.wrong_keys import describe_all
from ray_unlearn.training.transforms import check_transforms
from ray_unlearn.usercode.imports import is_script, read_script
from ray_unlearn.usercode.sources import module_texts, script_identity


def resolve(study: Study, population: str) -> MethodUse:
    """Validate a population's options and find out what identifies its method.

    Raises:
        StudyError: no such method, or one of its options is unknown or impossible.
        MethodError: a script cannot be read or run.
        ModelError: a weights file cannot be read.

    """
    spec = study.populations[population]
    script = is_script(spec.method_name)
    name, implied = (spec.method_name, {}) if script else METHODS.called(spec.method_name)
    source = read_script(name) if script else ""
    method = script_method(name, source, {}) if script else _registered(name, population)
    if script:
        check_script_form(name, source)  # refused before any work
    try:
        preset = _preset(method, population, spec.preset)
        own = _with_arguments(population, name, source, spec.options) if source else spec.options
        options = method.options.model_validate({**method.defaults(study), **preset, **implied, **own})
    except ValidationError as error:
        found = describe_all(error, method.options, type(spec).model_fields)
        problems = (f"populations.{population}.{one} (method {name})" for one in found)
        raise StudyError("\n".join(problems)) from None
    if isinstance(options, Batches):
        check_transforms(options.augment.transforms, study.data.image_size, _source_of(study, population))
    if name == "weights":
        hashes = tuple(open_weights(path).sha256 for path in options.weights)  # type: ignore[attr-defined]
        options = options.model_copy(update={"sha256": hashes})
    parts = _parts(options)
    methods = [method, *parts]
    return MethodUse(
        name=name,
        starts_from=method.starts_from,
        options=options,
        identity={
            "method": script_identity(name, source) if source else _identity(method),
            "options": _without_paths(identity_of(options)),
            **_revisions(methods),
            **_distributions(parts),
        },
        source=source,
        modules=module_texts(name, source) if source else {},
        deterministic=method.is_deterministic(options),
        corrections={one.name: one.corrections for one in methods if one.corrections},
        no_pack=_why_no_pack(study, population, method, options),
    )


def _why_no_pack(study: Study, population: str, method: Method, options: BaseModel) -> str:
    """Return why runs of a population cannot be trained several in one step; empty where they can."""
    if not method.packs:
        return f"{method.name} does more than train on one set with cross-entropy"
    if study.populations[population].on_halves or (study.data.forget.sets > 1 and population != ORIGINAL):
        return "its runs see different images, and may take different numbers of steps"
    precision = getattr(options, "precision", "fp32")
    return "" if precision == "fp32" else f"precision {precision}: packed steps are computed in fp32"


def _source_of(study: Study, population: str) -> str:
    """Return the key of a study that states how a population's batches are augmented."""
    own = "augment" in study.populations[population].options
    return f"populations.{population}.augment.transforms" if own else "training.augment.transforms"


def _with_arguments(population: str, method: str, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a script's options, those that its function names as its arguments."""
    fields = ScriptOptions.model_fields
    loaders = {key: value for key, value in options.items() if key in fields and key != "arguments"}
    others = {key: value for key, value in options.items() if key not in fields}
    written = options.get("arguments") or {}
    where, names = f"populations.{population}", [key for key in fields if key != "arguments"]
    return loaders | {"arguments": checked(where, method, source, {**written, **others}, names)}


def remarks(study: Study, uses: Mapping[str, MethodUse]) -> list[str]:
    """Return lines about scripts: arguments that keep defaults beside keys of their names, and draws without a seed."""
    lines = []
    for population, use in uses.items():
        if use.source:
            spec = study.populations[population]
            keys = spec.model_fields_set & {*ScriptOptions.model_fields, *type(spec).model_fields}
            lines += [
                f"population {population}: {key} is no argument of {use.name} here, which keeps its own {key}; to give "
                f"it one, add arguments: {{{key}: ...}}"
                for key in hidden(use.name, use.source, keys, use.options.arguments)  # type: ignore[attr-defined]
            ]
            lines += _unrepeatable(population, use)
            lines += _rescaling(study, population, use)
    return lines


def _texts(use: MethodUse) -> dict[str, str]:
    return {Path(use.name.rpartition(":")[0]).name: use.source, **use.modules}


def _rescaling(study: Study, population: str, use: MethodUse) -> list[str]:
    """Return a line where a script seems to scale images that the study has scaled."""
    found = [f"{file}:{line}: {text}" for file, source in _texts(use).items() for line, text in rescales(source)]
    if not found or study.data.normalize in ("raw", "unit"):
        return []
    return [
        f"population {population}: its script seems to scale images ({found[0]}), which data.normalize has done; "
        "scale in one of the two: data.normalize: raw hands out 0..255, and unit 0..1"
    ]


def _unrepeatable(population: str, use: MethodUse) -> list[str]:
    """Return a line where the runs of a script have other bytes when they are made again."""
    found = [f"{file}:{line}: {call}" for file, text in _texts(use).items() for line, call in draws_anew(text)]
    if not found:
        return []
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"population {population}: its script draws what no seed of a run reaches ({found[0]}{more}), so a run that is "
        "made again has other bytes; draw from torch's, NumPy's or Python's global generator, or take a seed from it: "
        "int(torch.randint(2**31, ()))"
    ]


def method_of(use: MethodUse) -> Method:
    """Return the method to run; a script's is made from the text that the plan hashed."""
    if use.source:
        return script_method(use.name, use.source, use.identity["method"])
    if use.name not in METHODS:
        raise MethodError(
            f"no method {use.name!r} is installed here; install the distribution that the study planned with"
        )
    method = METHODS[use.name]
    parts = _parts(use.options)
    planned = use.identity["method"], use.identity.get("distributions")
    here = _identity(method), _distributions(parts).get("distributions")
    for one, other in zip(planned, here, strict=True):
        if one != other:
            raise MethodError(
                f"method {use.name}: the study was planned with {one}; here is {other}; install the same version"
            )
    return method


def why_no_resume(use: MethodUse) -> str:
    """Return why runs of a population cannot go on from an epoch in their middle; empty where they can."""
    if use.source:
        return f"{use.name} is a script, whose loop nothing can go on with"
    reasons = (one.why_no_resume for one in _parts(use.options) or [METHODS[use.name]])
    return next(filter(None, reasons), "")


def _identity(method: Method) -> Any:
    """Return what identifies a registered method: its name, and the distribution where it is of one."""
    return {"name": method.name, "distribution": dict(method.distribution)} if method.distribution else method.name


def _registered(name: str, population: str) -> Method:
    if name == IMPORTED:
        raise StudyError(
            f"populations.{population}.method: imported: other programs made these runs, and `ray-unlearn import` "
            "brought their outputs; they are scored, not made. A study that makes runs compares them with these: "
            f"evaluation: {{populations: {{{population}: FOLDER}}}}"
        )
    if name not in METHODS:
        hint = did_you_mean(name, METHODS.names())
        raise StudyError(f"populations.{population}.method: no method {name!r}{hint}; or path/to/script.py:function")
    return METHODS[name]


def _preset(method: Method, population: str, name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name not in method.presets:
        hint = did_you_mean(name, method.presets) if method.presets else "; it has none"
        raise StudyError(f"populations.{population}.preset: method {method.name} has no preset {name!r}{hint}")
    return method.presets[name]


def _parts(options: BaseModel) -> list[Method]:
    """Return the methods that a mix is made of, each once."""
    return [METHODS[name] for name in dict.fromkeys(part.method for part in getattr(options, "parts", ()))]


def _revisions(methods: Sequence[Method]) -> dict[str, Any]:
    """Return the revisions of corrected methods; revision 1 is in no identity."""
    revisions = {method.name: method.revision for method in methods if method.revision > 1}
    return {"revisions": revisions} if revisions else {}


def _distributions(parts: Sequence[Method]) -> dict[str, Any]:
    """Return the distributions of the parts of a mix that are of one."""
    found = {part.name: dict(part.distribution) for part in parts if part.distribution}
    return {"distributions": found} if found else {}


def _without_paths(options: dict[str, Any]) -> dict[str, Any]:
    """Drop the weights' file names: their contents identify them."""
    return {key: value for key, value in options.items() if key != "weights"}
