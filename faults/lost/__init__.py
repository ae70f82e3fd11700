"""Rounds with real workers, two listeners and two rescuers: whoever is killed, each run gets its true end, or is lost.

``app`` and ``workers`` are the workers, which keep a ``record`` of what they do. ``disruptions`` says who is killed
and when, ``rounds`` goes through it all, ``judge`` compares what the database says with the record.
"""
