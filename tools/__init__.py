"""What writes generated files of the repository: ``make reference`` and ``make schema``."""
