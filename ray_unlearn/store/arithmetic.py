"""Conditions that change the bits of a run but no digest, and warnings where a population mixes them.

    mixtures({"finetune": records, "retrained": others}, reference="retrained")
    # ["population finetune: its runs differ in torch: 2.9.1 (runs 0-3), 2.10.0 (runs 4-5); ..."]

Versions of torch, torchvision and of the library of the net, the device, the thread count, and the instructions that
torch chose for the CPU. Such runs are of one experiment and equal to rounding, but training enlarges rounding: compare
them with that in mind. Of a script's run also how it was called (`SCRIPT`): earlier versions seeded the generators
before the script's import alone, so a script that seeds or draws on import drew other numbers.

Does not cover: what digests cover, and what changes no bit (host, times, attempts).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ray_unlearn.store.records import IMPORTED, Record

PACKAGES = ("torch", "torchvision", "timm", "transformers")
_SHOWN = 4  # ranges of runs that a warning lists
ADVICE = "digests do not cover that, so the last bits may differ"
SCRIPT = {"script": "own process and seeded after its import"}
"""Condition of a script's run; that of other methods has none."""
_SCRIPT_BEFORE = "seeded before its import alone"  # records of scripts' runs before 0.2 do not say it
_SCRIPT_ADVICE = "; a script that seeds or draws random numbers on import drew others: make such runs again"


def arithmetic_of(device: str, threads: int, versions: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Return the conditions of a run's last bits, by name, from the fields of its record."""
    packages = {name: versions[name] for name in PACKAGES if name in versions}
    return {"device": device, "threads": str(threads), **packages, **more}


def mixtures(populations: Mapping[str, Mapping[int, Record]], reference: str = "") -> list[str]:
    """Return a line for each population whose runs differ in conditions, and for each that differs from the reference.

    Args:
        populations: records by run index, by population.
        reference: the population that the others are compared with; empty for none.

    """
    values = {name: _values(records, scripted=_is_script(records)) for name, records in populations.items()}
    mixed = {name: {key: found for key, found in own.items() if len(found) > 1} for name, own in values.items()}
    lines = [
        f"population {name}: its runs differ in {'; '.join(map(_listed, own, own.values()))}; {_advice(own)}"
        for name, own in mixed.items()
        if own
    ]
    theirs = values.get(reference, {})
    for name, own in values.items():
        common = (own.keys() & theirs.keys()) - SCRIPT.keys()  # another method is another method
        differing = [key for key in common if set(own[key]) != set(theirs[key])]
        pairs = [f"{key} ({_joined(own[key])}, there {_joined(theirs[key])})" for key in sorted(differing)]
        if pairs:
            lines.append(f"population {name}: differs from the reference {reference} in {'; '.join(pairs)}; {ADVICE}")
    return lines


def mixing(
    held: Mapping[str, Mapping[int, Record]],
    pending: Iterable[str],
    arithmetic: Mapping[str, str],
    reference: str = "",
    scripts: Collection[str] = (),
) -> list[str]:
    """Return a line for each population whose new runs will differ from its finished runs or from the reference.

    Args:
        held: the records in the store, by population.
        pending: the populations that the worker will make runs of.
        arithmetic: the worker's conditions, as `arithmetic_of` returns them.
        reference: the population that the others are compared with; empty for none.
        scripts: the populations whose method is a script.

    """
    lines = []
    for name in sorted(set(pending)):
        scripted = name in scripts
        own = _values(held.get(name, {}), scripted=scripted)
        here = {**arithmetic, **SCRIPT} if scripted else arithmetic
        others = [("its runs so far", own, here)]
        if reference != name:
            others.append((f"the reference {reference}", _values(held.get(reference, {})), arithmetic))
        for whose, found, new in others:
            differing = [key for key in found if key in new and set(found[key]) != {new[key]}]
            pairs = [f"{key} ({_joined(found[key])}, here {new[key]})" for key in differing]
            if pairs:
                advice = _advice(differing)
                lines.append(f"population {name}: new runs differ from {whose} in {'; '.join(pairs)}; {advice}")
    return lines


def _advice(keys: Collection[str]) -> str:
    return ADVICE + (_SCRIPT_ADVICE if SCRIPT.keys() & set(keys) else "")


def _is_script(records: Mapping[int, Record]) -> bool:
    """Return whether some of a population's records say how a script was called."""
    return any(SCRIPT.keys() & record.arithmetic.keys() for record in records.values())


def _values(records: Mapping[int, Record], *, scripted: bool = False) -> dict[str, dict[str, list[int]]]:
    """Return key -> value -> the runs that have it; of a script, all runs have a value of `SCRIPT`."""
    absent = dict.fromkeys(SCRIPT, _SCRIPT_BEFORE) if scripted else {}
    found: dict[str, dict[str, list[int]]] = {}
    for index, record in sorted(records.items()):
        if record.method == IMPORTED:
            continue  # its conditions are not known
        more = {**absent, **record.arithmetic}
        known = arithmetic_of(record.device, record.threads, record.versions, more)
        for key, value in known.items():
            found.setdefault(key, {}).setdefault(value, []).append(index)
    return found


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))


def _listed(key: str, values: Mapping[str, list[int]]) -> str:
    return f"{key}: " + ", ".join(f"{value} (runs {_ranges(indexes)})" for value, indexes in values.items())


def _ranges(indexes: Iterable[int]) -> str:
    """Return `0-3, 5` for 0, 1, 2, 3, 5."""
    spans: list[list[int]] = []
    for index in indexes:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:_SHOWN]]
    return ", ".join(shown) + ", ..." * (len(spans) > _SHOWN)
