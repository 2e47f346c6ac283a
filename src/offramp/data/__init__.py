"""Datasets as NumPy arrays, split once by seed."""

from offramp.data.dataset import Augmentation, Dataset, Normalization, Split, load_dataset

__all__ = ["Augmentation", "Dataset", "Normalization", "Split", "load_dataset"]
