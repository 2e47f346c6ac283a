"""Readers of files into frozen values, without torch."""
