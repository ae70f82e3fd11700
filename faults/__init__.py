"""Crash tests: services and workers as processes that die at chosen points and at random, and judges of what is left.

``python -m faults --help``; docs/explanation/crash-tests.md says what a round is.

``seeds`` says which round a seed plays, ``report`` plays them. A round from its seed to its verdict: ``drawn`` and
``load`` decide what happens, ``servers`` and ``caller`` prepare it, ``fleet`` keeps the runners, ``drainer`` stands in
for the workers, ``listening`` keeps the listener, ``kinds`` and ``points`` kill, ``rounds`` goes through it all,
``judge`` checks. ``lost`` has the rounds with workers and rescuers, ``attack`` those for the listener alone.
"""
