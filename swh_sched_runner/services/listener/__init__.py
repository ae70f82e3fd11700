"""The listener: turns the events of workers into starts and ends of runs."""
