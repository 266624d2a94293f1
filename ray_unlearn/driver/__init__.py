"""What drives Ray, packs jobs and tunes: on its way into rooms of its own.

    backend = RayBackend(address=None, workers=2)

Does not cover: `generate` (`ray_unlearn.generation`), and which run is next (`ray_unlearn.schedule`).
"""
