"""Images: sources -> decoded Arrow shards -> index sets (retain, forget, validation, test) -> batches on the device.

    data = prepare_study(study, storage)  # study_data: decodes what is not decoded yet, draws the splits
    pixels = data.open(torch.device("cpu"))      # maps the shards
    retain = ImageSet(pixels, data.splits.sets["retain"], Scaling.of("standard"))
    images, labels = retain.batch(np.array([0, 5, 9]))    # float32 [3, 3, H, W] on the device, int64 [3]

`sources` and its formats name images without decoding, `decode` turns one into pixels, `shards` writes and maps them,
`prepare` makes a source's shards once, `splits` draws the sets, `images` gathers batches.

Does not cover: Ray. Large sources are decoded by the same function through `ray_unlearn.cluster.decoding`.
"""
