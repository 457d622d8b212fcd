"""Radiographs as memory-mapped pixels.

A domain's shards are plain `.npy` files, uint8, (n, size, size), C order. Shard k covers the cohort table's rows
[k·R, (k+1)·R) with R = `rows_per_shard`, in the table's order and without the rejected images, so that the bytes
depend on the cohort and the settings alone: not on threads, on how tasks share the shards, or on restarts.
`index.parquet` has a row an image (image_id, shard, row, sha256 of its pixels, what its file was), `rejects.csv` one
a rejected image, and `manifest.json`, written last, the settings, counts and checksums of all of it.
"""
