"""The rules a second time, in plain Python: what tests compare the scheduler with."""
