"""The keys of a study file: one frozen pydantic value per block. Field descriptions are also those of the JSON schema.

    Study.model_validate({"name": "faces", "data": {...}, "populations": {...}})
    Study.model_json_schema()                    # for editors: `ray-unlearn init --schema`

Unknown keys and wrong types are refused here; values that only another room can check (method options, whether a
column exists) are checked there, still before any work.

Does not cover: the file's syntax, overrides and paths (`loading`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from ray_unlearn.errors import did_you_mean
from ray_unlearn.study.adaptive import UpTo, check_equal
from ray_unlearn.study.forget import NAME_PATTERN, POPULATION_PATTERN, Forget, Fraction
from ray_unlearn.study.forget_sets import check_forget_sets
from ray_unlearn.study.model import Model
from ray_unlearn.study.places import Places
from ray_unlearn.study.recipe import Block, Float, Int, Recipe
from ray_unlearn.study.shuffle import AnyShuffle, Shuffle

RESERVED_NAMES = ("data-cache", "splits", "scores", "failed", "events")

Format = Literal[
    "auto", "parquet", "folder", "competition", "csv", "numpy", "tar", "arrow", "cifar10", "digits", "imported"
]
Split = Literal["retain", "forget", "validation", "test"]
Resize = Literal["stretch", "crop", "pad"]
Dtype = Literal["fp32", "bf16", "fp16"]


class Source(Block):
    """Source of images: a path (or several, or a glob), or the name of an embedded set."""

    path: str | tuple[str, ...] | None = Field(
        None, description="File, folder, glob or URI; relative to the study file."
    )
    format: Format = Field(
        "auto",
        description="`auto` decides by the path: *.parquet, a folder with retain.csv, a .csv of images, .npz, a folder "
        "with data.npy and label.npy, .tar, a folder of save_to_disk, or a folder per class. imported: no images, of a "
        "study that `import` wrote.",
    )
    images: str | None = Field(
        None, description="Folder that the paths in a .csv are relative to. Default: the folder of the .csv."
    )


def _source(value: Any) -> Any:
    """Accept `train: digits`, `train: path` and `train: [path, path]` for the full mapping."""
    if isinstance(value, str) and value in ("digits", "cifar10"):
        return {"format": value}
    return {"path": value} if isinstance(value, str | list | tuple) else value


AnySource = Annotated[Source, BeforeValidator(_source, json_schema_input_type=str | tuple[str, ...] | Source)]


def _fraction_or_source(value: Any) -> Any:
    """Read `0.1` as a fraction; everything else that is not `given` names a source."""
    return value if isinstance(value, int | float) or value == "given" or value is None else _source(value)


class Columns(Block):
    """Column names of a Parquet source, or of a CSV file of images."""

    path: str | None = Field(
        None, description="CSV: path of the image's file. Default: path, image_path, file_name, ..."
    )
    image: str = Field("image", description="struct<bytes, path> (Hugging Face layout) or binary, an encoded image.")
    label: str = Field("label", description="Integer class, or class name.")
    id: str | None = Field(None, description="Unique image id; without it ids are <file name>:<row>.")
    group: str | None = Field(None, description="Group (person) of the image, for forget sets by group.")
    age: str | None = Field(None, description="Age in years, handed to competition-style scripts.")


class Normalize(Block):
    """Per-channel mean and standard deviation, of pixels in 0..1."""

    mean: tuple[Float, Float, Float]
    std: tuple[Annotated[Float, Field(gt=0)], Annotated[Float, Field(gt=0)], Annotated[Float, Field(gt=0)]]


class Data(Block):
    """Images, their splits, and how pixels reach the model."""

    train: AnySource
    strict: bool = Field(
        False,
        description="true: images in two sets, groups that straddle sets, empty classes and a forget set of few images "
        "are errors.",
    )
    near_duplicates: bool = Field(
        False, description="Look for images of two sets that are nearly the same, by a hash of 128 bits."
    )
    test: Annotated[
        Fraction | Source | None,
        BeforeValidator(_fraction_or_source, json_schema_input_type=Fraction | str | tuple[str, ...] | Source | None),
    ] = Field(None, description="A source, or the fraction of `train` to hold out.")
    validation: Annotated[
        Fraction | Literal["given"] | Source | None,
        BeforeValidator(_fraction_or_source, json_schema_input_type=Fraction | str | tuple[str, ...] | Source | None),
    ] = Field(
        None,
        description="A source, the fraction of `train` to hold out, or `given` (the competition's validation.csv).",
    )
    forget: Forget
    image_size: Int = Field(32, ge=4, le=1024, description="Images are resized to this many pixels, square.")
    resize: Resize = Field(
        "stretch",
        description="What is done to images that are not square: stretch, crop to the middle, or pad with black.",
    )
    grey_bits: Int | None = Field(
        None,
        ge=8,
        le=16,
        description="Bits that 16-bit grey images use. Default: 16, but images with all levels below 4096 are refused.",
    )
    classes: Int | tuple[str, ...] | None = Field(
        None, description="Class count or names; default: those of the source."
    )
    normalize: Literal["raw", "unit", "standard"] | Normalize = Field(
        "standard",
        description="raw: 0..255 (the competition); unit: 0..1; standard: mean 0.5, std 0.25; or {mean, std}.",
    )
    columns: Columns = Columns()
    on_bad_image: Literal["refuse", "skip"] = Field(
        "refuse", description="A bad image is an error (refuse), or left out and recorded (skip)."
    )
    limit: Int | None = Field(
        None, ge=2, description="Number of training images to use, drawn with the study's seed. Default: all."
    )
    shuffle: AnyShuffle = Shuffle()


class PopulationSpec(BaseModel):
    """`count` checkpoints by one method; all further keys are the method's options."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    method: str | None = Field(None, description="A name from `ray-unlearn methods`, or path/to/script.py:function.")
    weights: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(
            lambda value: (value,) if isinstance(value, str) else value,
            json_schema_input_type=str | tuple[str, ...] | None,
        ),
    ] = Field(
        None,
        description="Instead of a method: one .safetensors or .pth (weights only) per checkpoint to import; or a glob, "
        "a folder, or a .csv with a column path, and seed, original.",
    )
    preset: str | None = Field(
        None, description="Name of a set of options of the method; options given here override it."
    )
    count: Annotated[Int, Field(ge=1, le=99_999)] | UpTo | None = Field(
        None, description="Number of checkpoints (seeds), or {up_to: 512, until: decided}."
    )
    originals: Int = Field(1, ge=1, description="Run i starts from original i modulo this many.")
    starts_from: str | None = Field(
        None,
        pattern=POPULATION_PATTERN,
        description="Instead of originals: a population of shadows. Run i starts from its run i, and sees only the "
        "retain and forget images that this one was trained on.",
    )
    keep_checkpoints: bool | None = Field(None, description="Whether to keep checkpoints. Default: as the study.")

    @property
    def options(self) -> dict[str, Any]:
        """The method's options."""
        weights = {"weights": self.weights} if self.weights else {}
        return {**weights, **(self.__pydantic_extra__ or {})}

    @property
    def on_halves(self) -> bool:
        """Whether each run is trained on its own half of the images, or starts from one that is."""
        return isinstance(self.options.get("on"), dict) or self.starts_from is not None

    @property
    def method_name(self) -> str:
        """Name of the method; `weights` where only files are given."""
        return self.method or "weights"

    @property
    def planned(self) -> int:
        """Number of planned checkpoints: `count`, else one per weights file, else 1."""
        if isinstance(self.count, UpTo):
            return self.count.up_to
        return self.count or len(self.weights or (1,))

    @model_validator(mode="after")
    def _method_or_weights(self) -> PopulationSpec:
        if (self.method is None) == (self.weights is None):
            hint = "" if self.method else '; the method null is written "null", in quotes'
            raise ValueError(f"expected either a method or weights: FILE{hint}")
        if self.starts_from is not None and self.originals != 1:
            raise ValueError("originals: run i starts from run i of starts_from, so leave originals out")
        if self.weights is not None and self.planned > len(self.weights):
            raise ValueError(f"count: expected at most {len(self.weights)}, one per weights file; found {self.count}")
        return self


class Stages(Block):
    """Files that a run saves while it trains; off by default, because they cost time."""

    metrics: bool = Field(False, description="Loss and accuracy on every split after every epoch.")
    outputs: tuple[Annotated[Int, Field(ge=1)], ...] = Field((), description="Epochs after which outputs are saved.")
    checkpoints: tuple[Annotated[Int, Field(ge=1)], ...] = Field(
        (), description="Epochs after which weights are saved."
    )


class Outputs(Block):
    """Which logits a run saves."""

    splits: tuple[Split, ...] = Field(
        ("forget", "test"), min_length=1, description="Splits whose logits are saved, where the study has them."
    )
    retain_sample: Int | None = Field(
        None, ge=1, description="Number of retain images, drawn with the study's seed. Default: all."
    )


class Evaluation(Block):
    """What unlearned populations are compared with."""

    reference: str = Field("retrained", description="The population retrained without the forget set.")
    populations: dict[Annotated[str, Field(pattern=POPULATION_PATTERN)], str] = Field(
        default_factory=dict,
        description="Populations of other stores to score, too: a name, and the population's folder there.",
    )
    mode: Literal["parity", "exact"] = Field(
        "parity", description="parity: the official evaluator's grid of intervals; exact: every interval."
    )
    expect_accuracy: Annotated[Float, Field(ge=0, le=1)] | None = Field(
        None, description="Accuracy of the original on test images, if known; `forget` refuses a model far from it."
    )
    resamples: Int = Field(
        100, ge=10, description="Random halves of the populations from which intervals and nulls are computed."
    )


class Execution(Block):
    """Where and how fast runs are made; on the same kind of device, only the thread count changes results.

    `pack` changes the last bits, and so do `cuda_graph` and `deterministic` on a GPU: leave them as they are inside a
    study.
    """

    workers: Annotated[Int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Number of workers; --workers overrides it, and alone counts for --backend inline. auto: as many "
        "as the cluster, or without Ray this machine, has resources for.",
    )
    cpus_per_worker: Int = Field(1, ge=1, description="CPU cores per worker; also the thread count of every run.")
    gpus_per_worker: Annotated[Float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="GPUs per worker, on Ray. auto: 1 where the device is cuda, else 0."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device of the runs. auto: cuda where the cluster, or without Ray this machine, has GPUs."
    )
    interleave: bool = Field(
        True, description="Run 0 of every population, then run 1 of every, ..., so that all can be compared early."
    )
    max_attempts: Int = Field(2, ge=1, description="Tries per run before it is recorded as failed.")
    fail_fast: bool = Field(
        True,
        description="End a population at its third run that fails with the same error at the same place, if none is "
        "made. false, or --keep-going: try every run.",
    )
    deterministic: bool = Field(True, description="Use deterministic algorithms on the GPU; CPUs always do.")
    device_budget_gib: Float = Field(
        8.0, ge=0, description="Largest set of decoded images, in GiB, that every worker keeps on its GPU."
    )
    cuda_graph: bool = Field(
        True,
        description="On GPUs, replay the step of a run that is in no pack as one captured graph, where no Python code "
        "decides within it. "
        "Results with and without agree to rounding, and each repeats bit for bit where deterministic.",
    )
    run_timeout_s: Float | None = Field(
        None,
        gt=0,
        description="Seconds after which a run is ended; a pack has it for each of its runs. --backend inline without "
        "--workers can end a script's alone. Default: no limit.",
    )
    pack: Int = Field(
        1,
        ge=1,
        le=1024,
        description="Runs of a population that are trained in one step, where method and net can: each with its own "
        "order and weights. It changes the last bits, so a population keeps to one number.",
    )
    resume_every_minutes: Float | None = Field(
        None,
        ge=0,
        description="Minutes after which a run saves its state at the end of an epoch, so that a preempted run goes on "
        "from there, to the same bytes. 0: after every epoch. Scripts cannot. Default: runs begin anew.",
    )
    script_memory_gib: Float | None = Field(
        None, gt=0, description="GiB that the processes of a script's run may hold (Linux). Default: 0.9 of the memory."
    )
    isolate: Literal["scripts", "all"] = Field(
        "scripts",
        description="Runs that have a process each. all: also those over the net of a factory, whose code may change "
        "the process for later runs; costs 0.2 s of a CPU core per run.",
    )
    track: tuple[Annotated[str, Field(pattern=r"^(tensorboard|mlflow|wandb|trackio)(=.+)?$")], ...] = Field(
        (),
        description="Trackers that get every made run's metrics: tensorboard, mlflow, wandb (offline) or trackio, "
        "each with =FOLDER or =URI; default: trackers/NAME in the storage.",
    )
    recycle_growth_gib: Float = Field(
        4.0,
        gt=0,
        description="GiB of memory growth since its first run after which a worker is replaced; one of --backend "
        "inline without --workers opens itself anew, in the same process.",
    )


class Study(Block):
    """One study file."""

    name: str = Field(pattern=NAME_PATTERN, description="The study's folder under `storage`.")
    storage: str = Field(
        "./studies", min_length=1, description="A folder, an NFS mount, s3://bucket/prefix or gs://bucket/prefix."
    )
    seed: Int = Field(0, ge=0)
    data: Data
    model: Model = Model()
    training: Recipe = Recipe()
    populations: dict[Annotated[str, Field(pattern=POPULATION_PATTERN)], PopulationSpec] = Field(min_length=1)
    stages: Stages = Stages()
    outputs: Outputs = Outputs()
    keep_checkpoints: bool = Field(True, description="false keeps outputs only, so that N can be large.")
    checkpoint_dtype: Dtype = Field("fp32", description="Type of the saved weights; normalisation buffers stay fp32.")
    execution: Execution = Execution()
    evaluation: Evaluation | None = None
    _places: Places = PrivateAttr(Places())

    @property
    def places(self) -> Places:
        """Lines of its file, for messages; no part of the study."""
        return self._places

    def with_file(self, places: Places, folder: str) -> Study:
        """Return a copy that knows its file's lines, and its folder where the architecture may be in it."""
        model = self.model.with_folder(folder) if ":" in self.model.arch else self.model
        found = self.model_copy(update={"model": model})
        found._places = places
        return found

    @model_validator(mode="after")
    def _references(self) -> Study:
        paths = {"name": self.name} | {f"populations.{name}": name for name in self.populations}
        for path, name in paths.items():
            if name in RESERVED_NAMES:
                raise ValueError(f"{path}: {name!r} is a name that the store uses; choose another")
        if self.data.forget.of == self.name:
            raise ValueError(
                f"data.forget.of: {self.name!r} is this study; its forget set cannot depend on its own runs: name an "
                "earlier study of the same images"
            )
        reference = (self.evaluation or Evaluation()).reference
        check_equal({name: spec.count for name, spec in self.populations.items() if name != "original"}, reference)
        for name, spec in self.populations.items():
            fixed, sets = not isinstance(spec.count, UpTo), self.data.forget.sets if name != "original" else 1
            check_forget_sets(sets, name, spec.planned, fixed=fixed, on_halves=spec.on_halves)
        if twice := sorted(self.others.keys() & self.populations):
            raise ValueError(
                f"evaluation.populations.{twice[0]}: the study has a population of this name; choose another"
            )
        known = {**self.populations, **self.others}
        if self.evaluation and self.evaluation.reference not in known:
            reference = self.evaluation.reference
            hint = did_you_mean(reference, known)
            raise ValueError(f"evaluation.reference: {reference!r} is not a population of the study{hint}")
        return self

    @property
    def others(self) -> dict[str, str]:
        """Populations of other stores that it is compared with: name -> folder."""
        return self.evaluation.populations if self.evaluation else {}

    @property
    def adaptive(self) -> UpTo | None:
        """How many runs its populations may take until a decision; None where their numbers are fixed."""
        counts = [spec.count for name, spec in self.populations.items() if name != "original"]
        return next((count for count in counts if isinstance(count, UpTo)), None)
