"""The commented study that `ray-unlearn init FILE` writes.

    Path("study.yaml").write_text(TEMPLATE)

It is a complete study on the embedded digits; a test loads it.

Does not cover: the full list of keys, which is the JSON schema (`ray-unlearn init --schema`).
"""

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
  # augment: {crop: 4, flip: true}

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
