"""The cohort: which patients and images are in a study."""
