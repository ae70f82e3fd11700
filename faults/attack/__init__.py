"""An attack on the listener: hostile messages between good ones, and what it made of them.

``python -m faults.attack --help``; docs/explanation/crash-tests.md says what a round is.
"""
