"""Decoding, resampling and normalising of radiographs, many at once."""

def available_threads() -> int:
    """Cores given to this process by its affinity mask and cgroup."""
