"""Crash tests: runners as processes that die at chosen points and at random, and a judge of what is left.

``python -m tests.support.faults --help``; docs/explanation/crash-tests.md says what a round is.
"""
