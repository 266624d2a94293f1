"""Images: sources -> decoded Arrow shards -> index sets (retain, forget, validation, test) -> batches on the device.

    prepared = prepare_study(study, storage)     # decodes what is not decoded yet
    splits = make_splits(study, prepared)        # index arrays over stable image ids
    images = ImageSet(prepared, splits.retain, device)
    batch = images.batch(np.array([0, 5, 9]))    # float32 [B, 3, H, W] on the device, and int64 labels [B]

`sources` and its formats name images without decoding, `decode` turns one into pixels, `shards` writes and maps them,
`prepare` makes a source's shards once, `splits` draws the sets, `images` gathers batches.

Does not cover: Ray. Large sources are decoded by the same function through `ray_unlearn.driver.ray_data`.
"""
