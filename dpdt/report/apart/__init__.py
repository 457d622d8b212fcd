"""Results that leave a hospital (`results`, `file`), which cells may (`suppression`), all together (`combine`)."""
