"""A teacher's recorded answers."""
