"""Task types, tasks, their runs and the archive."""
