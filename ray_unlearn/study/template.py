"""The commented studies that `ray-unlearn init FILE` writes.

    Path("study.yaml").write_text(TEMPLATE)
    text = DELETION.substitute(PLACEHOLDERS | {"weights": "model.pth"})

`TEMPLATE` is a complete study on the embedded digits; a test loads it. `DELETION` is the form of one deletion request,
which `ray-unlearn forget` fills in; with `PLACEHOLDERS` it is what `init --template deletion` writes.

Does not cover: the full list of keys, which is the JSON schema (`ray-unlearn init --schema`).
"""

from string import Template

TEMPLATE = """\
# One study: data, forget split, model, training, populations. `ray-unlearn all THIS_FILE` does what is not done yet.
# Relative paths are relative to this file. Every key: `ray-unlearn init --schema`.
name: my-study
storage: ./studies            # or an NFS mount, s3://bucket/prefix, gs://bucket/prefix
seed: 0

data:
  train: digits               # digits and cifar10 are built in. Yours: a Parquet file (Hugging Face image layout),
                              # a list or glob of them, a folder per class, or a folder in the competition's layout
  test: digits                # a source, or a fraction of train such as 0.1
  validation: 0.1             # a fraction of train, a source, or `given`
  image_size: 16
  forget: {fraction: 0.02}    # or {label: 3} | {group: person_id, count: 15} | {ids: forget.csv} | {given: true}
  # normalize: standard       # raw (0..255, the competition) | unit | standard | {mean: [...], std: [...]}
  # on_bad_image: refuse      # or skip, which records each image skipped

model: {arch: small_cnn}      # a torchvision name such as resnet18, or package.module:factory

training:                     # how originals and retrained models are trained
  epochs: 10
  optimizer: adam             # sgd | adam | adamw
  lr: 1.0e-3
  weight_decay: 5.0e-4
  schedule: cosine            # constant | cosine | step | linear
  batch_size: 64
  # precision: bf16           # autocast; weights stay fp32
  # augment: {crop: 4, flip: true}       # and, or instead: transforms: [RandAugment, {ColorJitter: {brightness: 0.2}}]

populations:                  # count: how many checkpoints, each with its own seed; raised later, only the rest is made
  original:  {method: train, on: train, count: 1}      # or {weights: original.safetensors}
  retrained: {method: train, on: retain, count: 8}
  finetune:  {method: finetune, count: 8, epochs: 1, lr: 1.0e-3}
  # mine:    {method: my_method.py:unlearning, count: 8}   # the competition's function form

outputs: {splits: [retain, forget, test]}   # whose logits are saved with every checkpoint
# keep_checkpoints: false     # keep outputs only, so that count can be large
# stages: {metrics: true}     # accuracy on every split after every epoch

execution: {workers: auto, cpus_per_worker: 1}
evaluation: {reference: retrained}
"""

DELETION = Template("""\
# One deletion request: a trained model, its training images, and those of them that it should forget.
# `ray-unlearn forget THIS_FILE` makes the unlearned model and the evidence; relative paths are relative to this file.
name: deletion
storage: .
seed: 0
data:
  # The images that the model was trained on: a folder per class, or Parquet.
  train: $data
  # Images that it was not trained on; a fraction such as 0.1 is held out of train instead.
  test: $test
  # As the model was trained: size and scale of the pixels decide its accuracy.
  image_size: $image_size
  normalize: $normalize
  # CSV with a column image_id (folder/file of an image), or .txt, .json, .npy.
  forget: {ids: $ids}
model: {arch: $arch}
# How the model was trained: the retrained models, which it is compared with, follow this.
training: $training
populations:
  original: {weights: $weights}
  unlearned: {method: $method, count: $count}
  retrained: {method: train, on: retain, count: $count}
outputs: {splits: [retain, forget, test]}
# expect_accuracy: of the model on test images, 0 to 1, if known.
evaluation: {reference: retrained, expect_accuracy: $expect_accuracy}
""")

PLACEHOLDERS = {
    "data": "photos",
    "test": "0.1",
    "image_size": "32",
    "normalize": "standard",
    "ids": "delete.csv",
    "arch": "resnet18",
    "training": "{epochs: 30, optimizer: adam, lr: 1.0e-4, weight_decay: 5.0e-3, batch_size: 64}",
    "weights": "original.pth",
    "method": "kookmin",
    "count": "1",
    "expect_accuracy": "null",
}
