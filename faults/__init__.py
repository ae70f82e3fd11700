"""Crash tests: runners as processes that die at chosen points and at random, and a judge of what is left.

``python -m faults --help``; docs/explanation/crash-tests.md says what a round is.

A round from its seed to its verdict: ``drawn`` and ``load`` decide what happens, ``servers`` and ``caller`` prepare it,
``fleet`` keeps the runners, ``drainer`` stands in for the workers, ``listening`` keeps the listener, ``kinds`` and
``points`` kill, ``rounds`` goes through it all, ``judge`` checks. ``attack`` is for the listener alone.
"""
