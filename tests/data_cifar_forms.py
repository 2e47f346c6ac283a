"""CIFAR-10 in its three forms, small and with random pixels: made to test layout and order, nothing else."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PER_FILE = 20


def images(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Six files' worth of images and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (6, PER_FILE, 3, 32, 32), dtype=np.uint8), np.tile(
        np.arange(10, dtype=np.uint8), (6, PER_FILE // 10)
    )


def write_python(folder: Path, protocol: int = 2) -> None:
    x, y = images()
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {
            b"data": x[k].reshape(PER_FILE, -1),
            b"labels": y[k].tolist(),
            b"batch_label": b"one",
            b"filenames": [],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))


def write_binary(folder: Path) -> None:
    x, y = images()
    for k, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        np.concatenate([y[k][:, None], x[k].reshape(PER_FILE, -1)], axis=1).tofile(folder / name)


def write_packed(folder: Path) -> None:
    x, y = images()
    for k, name in enumerate([*(f"train{i}" for i in range(5)), "test"]):
        mosaic = x[k].reshape(4, 5, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(4 * 32, 5 * 32, 3)
        Image.fromarray(mosaic).save(folder / f"cifar10-{name}.webp", lossless=True)
    np.savez(folder / "labels.npz", train=y[:5].ravel(), test=y[5])


WRITERS: dict[str, Callable[[Path], None]] = {"python": write_python, "binary": write_binary, "packed": write_packed}
