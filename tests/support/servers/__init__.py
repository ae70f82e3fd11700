"""Servers, databases and what lies between them and a program."""
