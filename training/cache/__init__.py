"""The activation cache: a folder of safetensors shards.

    manifest.json              what is sampled, and into how many shards it goes; written with the first shard
    shard-00000.safetensors    for consecutive images "<hookpoint name>" [images, maps, positions, width] in the
                               cache's storage (see storage.py) and "sigmas" fp32 [images, maps]; where some of a
                               map's positions are kept, in its metadata how many a whole map has
    shard-00000.json           its checksum, written last: a shard without one does not count

A map is what one image has at one call of the model: [positions, width] at a hookpoint. Where both halves of guidance
are kept, an image has two maps of each call, the conditional one first. Everything is written atomically, so a stop at
any moment loses at most the shard being written, and several machines can write shards of one cache.
"""
