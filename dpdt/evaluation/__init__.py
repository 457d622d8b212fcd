"""Models tested on every hospital."""
