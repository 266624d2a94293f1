"""Small images, sources and sets whose every pixel is known."""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.embedded import DigitsSlice
from ray_unlearn.data.images import ImageSet, Pixels, RunData, Scaling
from ray_unlearn.data.prepare import Prepared, prepare_source
from ray_unlearn.data.rows import OpenSource, Row
from ray_unlearn.data.shards import Example, encode_shard, map_shard
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.train import TrainOptions
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.filesystem import open_storage
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.study.schema import Model, Normalize

IMAGE_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(index: int, height: int = 8, width: int = 8) -> np.ndarray:
    """Return uint8 [height, width, 3], different for every index."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_parquet(
    path: Path,
    labels: Sequence[Any],
    *,
    images: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    plain: bool = False,
    rows_per_group: int = 1000,
    start: int = 0,
    **columns: Sequence[Any],
) -> Path:
    """Write a Parquet file in the Hugging Face layout (or with plain binary images) of `picture(start + row)`."""
    cells = list(images) if images is not None else [encoded(picture(start + i)) for i in range(len(labels))]
    if not plain:
        cells = [cell if isinstance(cell, dict) else {"bytes": cell, "path": None} for cell in cells]
    image_type = pa.binary() if plain else IMAGE_STRUCT
    label_type = pa.string() if any(isinstance(label, str) for label in labels) else pa.int64()
    arrays = {"image": pa.array(cells, image_type), "label": pa.array(labels, label_type)}
    table = pa.table(arrays | {name: pa.array(values) for name, values in columns.items()})
    if names is not None:
        quoted = ", ".join(f'"{name}"' for name in names)
        features = f'{{"info": {{"features": {{"label": {{"names": [{quoted}], "_type": "ClassLabel"}}}}}}}}'
        table = table.replace_schema_metadata({"huggingface": features})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def rows_of(source: OpenSource) -> list[Row]:
    """Return every row of a source."""
    return [row for part in source.slices for row in part.rows()]


def prepare(source: OpenSource, folder: Path, *, image_size: int = 8, **options: Any) -> Prepared:
    """Decode a source into a local storage at `folder`."""
    return prepare_source(source, open_storage(str(folder)), image_size=image_size, **options)


def decoded(prepared: Prepared) -> np.ndarray:
    """Return every decoded pixel, uint8 [N, H, W, 3]."""
    return np.concatenate([shard.pixels_NHWC for shard in prepared.map()])


def column(prepared: Prepared, name: str) -> list[Any]:
    """Return one column of every shard as Python values."""
    return [value for shard in prepared.map() for value in shard.table.column(name).to_pylist()]


def copied(value: Any) -> Any:
    """Return the value as another process would get it."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - made one expression earlier


def numbered_pixels(folder: Path, labels: Sequence[int], size: int = 8, shards: int = 2) -> Pixels:
    """Return images whose first pixel's red value is their own index (below 256), mapped from one shard or two."""
    examples = []
    for index, label in enumerate(labels):
        pixels = picture(index, size, size)
        pixels[0, 0, 0] = index
        group = f"p{index // 2}"
        examples.append(Example(pixels, int(label), f"image-{index:03d}", group, 20.0 + index, ""))
    mapped, middle = [], len(examples) // 2
    for number, part in enumerate([examples] if shards == 1 else [examples[:middle], examples[middle:]]):
        path = folder / f"{number}.arrow"
        path.unlink(missing_ok=True)  # an earlier file of that name may still be mapped
        path.write_bytes(encode_shard(part))
        mapped.append(map_shard(str(path)))
    return Pixels(mapped, torch.device("cpu"))


def run_data(
    folder: Path,
    *,
    retain: int = 20,
    forget: int = 6,
    validation: int = 4,
    test: int = 4,
    classes: int = 3,
    normalize: str | Normalize = "raw",
    shards: int = 2,
) -> RunData:
    """Return a run's view of numbered images: retain comes first, then forget, validation and test."""
    total = retain + forget + validation + test
    pixels = numbered_pixels(folder, [i % classes for i in range(total)], shards=shards)
    bounds = np.cumsum([0, retain, forget, validation])
    scaling = Scaling.of(normalize)

    def view(first: int, last: int) -> ImageSet:
        return ImageSet(pixels, np.arange(first, last), scaling)

    return RunData(
        train=view(0, bounds[2]),
        retain=view(0, bounds[1]),
        forget=view(bounds[1], bounds[2]),
        validation=view(bounds[2], bounds[3]) if validation else None,
        num_classes=classes,
        device=torch.device("cpu"),
    )


def on_gpu(data: RunData, budget_bytes: float = 1e9) -> RunData:
    """Return the same sets with their pixels on the GPU."""
    pixels = copy.copy(data.train.pixels)
    pixels.device = torch.device("cuda")
    pixels.resident = Pixels._as_one_tensor(pixels, budget_bytes)
    pixels._labels = pixels._labels.cuda()
    sets = {name: getattr(data, name) for name in ("train", "retain", "forget", "validation")}
    moved = {name: ImageSet(pixels, images.indices, images.scaling) for name, images in sets.items()}
    return dataclasses.replace(data, device=pixels.device, **moved)


def indices_of(images_BCHW: torch.Tensor) -> list[int]:
    """Return the indices of numbered images in a raw, unaugmented batch."""
    return [int(value) for value in images_BCHW[:, 0, 0, 0].tolist()]


def small_net(seed: int = 0) -> nn.Module:
    """Return a small net with batch normalisation and three classes, the same for the same seed."""
    return models.build(Model(arch="small_cnn", options={"width": 4}), 3, Seeds(study=seed))


def digits_and_original(folder: Path) -> tuple[RunData, nn.Module]:
    """Return 40 digits, 10 of them to forget, and 10 for validation; and a `small_cnn` trained on the 40."""
    rows = list(itertools.islice(DigitsSlice("train").rows(), 50))
    images = [np.repeat(np.asarray(row.image)[:, :, None], 3, axis=2) for row in rows]
    examples = [
        Example(image, int(row.label), row.image_id, "", 0.0, "") for image, row in zip(images, rows, strict=True)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "digits.arrow").write_bytes(encode_shard(examples))
    pixels = Pixels([map_shard(str(folder / "digits.arrow"))], torch.device("cpu"))
    scaling = Scaling.of("standard")
    train, retain, forget = (ImageSet(pixels, np.arange(*bounds), scaling) for bounds in ((0, 40), (0, 30), (30, 40)))
    data = RunData(
        train=train,
        retain=retain,
        forget=forget,
        validation=ImageSet(pixels, np.arange(40, 50), scaling),
        num_classes=10,
        device=torch.device("cpu"),
    )
    original = models.build(Model(arch="small_cnn", options={"width": 4}), 10, Seeds(study=0))
    METHODS["train"].run(original, data, TrainOptions(on="train", epochs=3.0, lr=3e-3, batch_size=8), Seeds(study=0))
    return data, original


def digit_runs(folder: Path, name: str, runs: Sequence[int] = (0, 0, 1), **options: Any) -> list[dict[str, Any]]:
    """Run a method on digits from one trained net (`digits_and_original`); return each run's weights.

    Fails where a loss or a weight is not finite, or where the method reports no epoch's loss though it trains.
    """
    losses: list[float] = []
    data, original = digits_and_original(folder)
    data = dataclasses.replace(data, on_epoch=lambda model, epoch, loss: losses.append(loss))
    results = []
    torch.set_num_threads(1)  # threads that wait for each other cost more than batches as small as these
    for run in runs:
        losses.clear()
        model = copy.deepcopy(original)
        method = METHODS[name]
        method.run(model, data, method.options(**options), Seeds(study=0, population=name, run=run))
        assert losses or not issubclass(method.options, Recipe)
        assert np.isfinite(losses).all()
        results.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        assert all(torch.isfinite(tensor.float()).all() for tensor in results[-1].values())
    return results


def same_weights(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two state dicts have the same names, and tensors that are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(each, second[key]) for key, each in first.items())
