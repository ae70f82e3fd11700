"""Processes that tests start and kill: our program, workers, other releases."""
