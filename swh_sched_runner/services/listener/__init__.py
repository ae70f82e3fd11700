"""The listener: records starts and ends of runs from the events of workers."""
