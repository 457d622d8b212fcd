"""Who is in a study."""
