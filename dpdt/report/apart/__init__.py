"""Results that leave a hospital (`results`), which cells may (`suppression`), all of them together (`combine`)."""
