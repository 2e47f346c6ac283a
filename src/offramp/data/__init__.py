"""Datasets as NumPy arrays, split once by seed."""
