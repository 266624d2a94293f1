"""Populations of a store -> files as other benchmarks read them: KLOM's, EasyDUB's, LiRA's.

    export_outputs(store, ["retrained", "scrub"], "klom", Path("klom"), reference="retrained")

Each is what `import` reads of the same format (`margins`, `logits`): KLOM's two tensors per population, EasyDUB's
folder with the reference as `oracle` and one `.npz` for every other population, LiRA's folder per shadow. Images are
numbered as the study lists them, retain images first, then forget images: `images.csv` has their ids,
`forget_indices.npy` the numbers of the forget images, `labels.npy` the classes where they are known. A study with
several forget sets gives a folder for each, `forget_set_0` and so on.

Does not cover: checkpoints (`ray_unlearn.export`), and hubs (`hub`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ray_unlearn.errors import StoreError, StudyError
from ray_unlearn.evaluation.outputs import Outputs, read_outputs
from ray_unlearn.export import new_folder, save_pth
from ray_unlearn.interchange.margins import KLOM_FILES, PHASES
from ray_unlearn.interchange.sets import OfSet, by_forget_set
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.membership import HALVED, is_shadow, membership_matrix
from ray_unlearn.store.outputs import UNKNOWN, decode_margins, decode_outputs
from ray_unlearn.store.records import OUTPUTS
from ray_unlearn.store.splits import ImageNames, read_image_names
from ray_unlearn.study.plan import Run

_SPLIT_OF = dict(zip(PHASES, ("retain", "forget", "test"), strict=True))


def export_outputs(
    store: StudyStore, populations: Sequence[str], form: str, folder: Path, reference: str
) -> list[Path]:
    """Write the populations' outputs into a new folder; return the files that are at its top.

    Args:
        store: the study's folder.
        populations: which; KLOM and EasyDUB take those that saved retain, forget and test images, LiRA one of shadows.
        form: klom, easydub or lira.
        folder: the folder, which must not exist.
        reference: the population that EasyDUB calls its oracle.

    Raises:
        StudyError: the folder exists, or the format does not hold these populations.
        StoreError: outputs are missing or damaged.

    """
    sets = by_forget_set(store, populations)
    with new_folder(folder) as pending:
        for one in sets:
            (own := pending / one.folder).mkdir(exist_ok=True)
            _write_set(store, one, form, own, reference)
    return sorted(folder.iterdir())


Made = Mapping[str, Mapping[int, Record]]


def _write_set(store: StudyStore, one: OfSet, form: str, folder: Path, reference: str) -> None:
    first = next(iter(one.records))
    names = read_image_names(store, one.splits[first])
    _WRITERS[form](store, one.records, names, folder, reference)
    _write_images(names, folder)
    labels = _labels(store, first, one.records[first])
    if (labels != UNKNOWN).all():
        np.save(folder / "labels.npy", labels)


def _labels(store: StudyStore, name: str, records: Mapping[int, Record]) -> np.ndarray:
    """Return the classes of the images, in the order of the columns."""
    splits = read_outputs(store, name, dict(list(records.items())[:1])).splits
    return np.concatenate([splits[split].labels_N for split in _SPLIT_OF.values() if split in splits])


def _write_images(names: ImageNames, folder: Path) -> None:
    """Write which image each column is of."""
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image_id", "split"])
        table.writerows(
            (image_id, split) for split in ("retain", "forget", "test") for image_id in names.ids.get(split, ())
        )
    retain, forget = (len(names.ids.get(split, ())) for split in HALVED)
    np.save(folder / "forget_indices.npy", np.arange(retain, retain + forget))


def _margins(store: StudyStore, name: str, records: Mapping[int, Record], names: ImageNames) -> dict[str, np.ndarray]:
    """Return margins [runs, images] by split, float32, or as they were imported.

    Raises:
        StoreError: not every image of retain, forget and test was saved, or margins are of the next class alone.

    """
    found = read_outputs(store, name, records)
    for split in _SPLIT_OF.values():
        saved = len(found.splits[split].positions_N) if split in found.splits else 0
        if saved != len(names.ids.get(split, ())) or not saved:
            raise StoreError(
                f"{store.uri}: population {name}: saved outputs of {saved} of {len(names.ids.get(split, ()))} {split} "
                "images; the format holds all of retain, forget and test: outputs: {splits: [retain, forget, test]}"
            )
        if found.splits[split].margin == "top_two":
            raise StoreError(
                f"{store.uri}: population {name}: has margins to the next class, and the format takes others"
            )
    return {split: _margins_of(store, name, found, records, split) for split in _SPLIT_OF.values()}


def _margins_of(store: StudyStore, name: str, found: Outputs, records: Mapping[int, Record], split: str) -> np.ndarray:
    if found.splits[split].margin is not None:  # the bits that were imported
        rows = [decode_margins(_outputs(store, name, index, record)) for index, record in sorted(records.items())]
        return np.stack([row[1][split].margins_N for row in rows if row])
    return np.asarray(found.splits[split].phi_RN.astype(np.float32))


def _outputs(store: StudyStore, name: str, index: int, record: Record) -> bytes:
    return store.payload(Run(population=name, index=index), OUTPUTS, record)


def _write_klom(store: StudyStore, records: Made, names: ImageNames, folder: Path, reference: str) -> None:
    del reference
    for name, runs in records.items():
        margins = _margins(store, name, runs, names)
        (folder / name).mkdir()
        train = np.concatenate([margins[split] for split in HALVED], axis=1)
        for file, values in zip(KLOM_FILES, (train, margins["test"]), strict=True):
            save_pth(values, folder / name / file)


def _write_easydub(store: StudyStore, records: Made, names: ImageNames, folder: Path, reference: str) -> None:
    if reference not in records:
        raise StudyError(f"export: EasyDUB's format holds the oracles: name the reference, --population {reference}")
    sets = folder / "forget_sets" / "study"
    sets.mkdir(parents=True)
    retain, forget = (len(names.ids[split]) for split in HALVED)
    np.save(sets / "forget_set_1.npy", np.arange(retain, retain + forget))
    for name, runs in records.items():
        margins = _margins(store, name, runs, names)
        if name != reference:
            named = {f"margins_{phase}": margins[split][None] for phase, split in _SPLIT_OF.items()}
            np.savez(folder / f"{name}.npz", **named)  # type: ignore[arg-type]
            continue
        for phase, split in _SPLIT_OF.items():
            own = folder / "margins" / "study" / "oracle" / "forget_1" / phase / "net"
            own.mkdir(parents=True)
            for index, row in zip(sorted(runs), margins[split], strict=True):
                np.save(own / f"id_{index}_epoch_0.npy", row)


def _write_lira(store: StudyStore, records: Made, names: ImageNames, folder: Path, reference: str) -> None:
    del reference
    if len(records) != 1 or not is_shadow(next(iter(next(iter(records.values())).values()))):
        raise StudyError("export: LiRA's format holds one population of shadows, on: {half_of: train}; name one")
    name, runs = next(iter(records.items()))
    keep = membership_matrix(store, name)
    for row, (index, record) in enumerate(sorted(runs.items())):
        splits = decode_outputs(_outputs(store, name, index, record))
        if any(len(splits[s].positions_N) != len(names.ids[s]) if s in splits else names.ids.get(s) for s in HALVED):
            raise StoreError(f"{store.uri}: population {name}: saved no outputs of all retain and forget images")
        train = [splits[split] for split in HALVED if split in splits]
        model = folder / f"experiment-{index}_{len(runs)}"
        (model / "logits").mkdir(parents=True)
        np.save(model / "keep.npy", keep[row])
        np.save(model / "logits" / f"{1:010d}.npy", np.concatenate([one.logits_NC for one in train])[:, None, None, :])
        if not row:
            np.save(folder / "y_train.npy", np.concatenate([one.labels_N for one in train]))


_WRITERS: dict[str, Callable[[StudyStore, Made, ImageNames, Path, str], None]] = {
    "klom": _write_klom,
    "easydub": _write_easydub,
    "lira": _write_lira,
}
