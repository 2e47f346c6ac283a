"""Free Spoken Digit Dataset as MFCC or log-mel pictures, computed here from the audio.

3,000 clips at 8 kHz (Z. Jackson et al., doi 10.5281/zenodo.1342401, CC BY-SA 4.0); the usual split: recordings 0-4
of each speaker and digit are test. Features: the middle second of a clip (zeros around a shorter one), Hann windows of
40 ms every 20 ms (49 frames, as in Zhang et al. 2017, "Hello Edge", arXiv 1711.07128), power spectrum of 512 points,
40 triangular mel bands from 20 Hz to 4 kHz (mel = 2595 log10(1 + f/700)), natural logarithm of energy + 1e-6; MFCC:
the first 10 coefficients of its orthonormal DCT-II. Time runs along H, features along W.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.files import expect, find_file, read_npz
from offramp.data.raw import Augmentation, RawData, Samples
from offramp.errors import DataError

FILE = "fsdd_8k.npz"
RATE_HZ = 8000
WINDOW, HOP, POINTS = 320, 160, 512
BANDS, COEFFICIENTS = 40, 10
LOWEST_HZ, HIGHEST_HZ = 20.0, 4000.0
FLOOR = 1e-6
TEST_INDEX_BELOW = 5
Floats = NDArray[np.float32]


def mel_filters() -> Floats:
    """Triangular filters over the bins of the power spectrum, (bins, bands)."""
    low, high = (2595.0 * np.log10(1.0 + f / 700.0) for f in (LOWEST_HZ, HIGHEST_HZ))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, BANDS + 2) / 2595.0) - 1.0)
    bins = np.arange(POINTS // 2 + 1)[:, None] * (RATE_HZ / POINTS)
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rise, fall), 0.0).astype(np.float32)


def log_mel(audio: Floats) -> Floats:
    """Log mel energies (N, frames, bands) of clips (N, samples) in [-1, 1]."""
    from scipy.fft import rfft

    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW, axis=1)[:, ::HOP]
    spectrum = rfft(frames * np.hanning(WINDOW + 1)[:-1].astype(np.float32), POINTS, axis=-1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return np.log(power @ mel_filters() + np.float32(FLOOR))  # type: ignore[no-any-return]


def mfcc(audio: Floats) -> Floats:
    """Cepstral coefficients (N, frames, 10) of clips (N, samples) in [-1, 1]."""
    from scipy.fft import dct

    return dct(log_mel(audio), type=2, norm="ortho", axis=-1)[..., :COEFFICIENTS]  # type: ignore[no-any-return]


def middle_second(clip: NDArray[np.int16]) -> Floats:
    """One second around the middle of a clip, zeros outside it, in [-1, 1]."""
    out = np.zeros(RATE_HZ, dtype=np.float32)
    cut = clip[max(0, (len(clip) - RATE_HZ) // 2) :][:RATE_HZ]
    start = (RATE_HZ - len(cut)) // 2
    out[start : start + len(cut)] = cut
    return out / np.float32(32768.0)


def read_fsdd(folder: Path | None, seed: int, *, features: str = "mfcc") -> RawData:
    """Spoken digits as (N, 1, 49, 10) MFCC or (N, 1, 49, 40) log-mel.

    Raises:
        DataError: the file is missing, truncated or inconsistent.
    """
    path = find_file(folder, FILE, inside=("fsdd",), dataset="fsdd")
    arrays = read_npz(path, ("audio", "length", "y", "index"))
    audio = expect(arrays["audio"], (None,), "i", what="audio", where=path)
    length = expect(arrays["length"], (None,), "iu", what="length", where=path)
    y = expect(arrays["y"], length.shape, "iu", what="y", where=path)
    index = expect(arrays["index"], length.shape, "iu", what="index", where=path)
    if int(length.min(initial=0)) < 0 or int(length.sum()) != len(audio):
        given = f"{len(audio)} audio samples for clips of {int(length.sum())} together"
        raise DataError(given, wanted="as many", where=str(path))
    clips = np.split(audio, np.cumsum(length)[:-1])
    held = index < TEST_INDEX_BELOW
    transform = mfcc if features == "mfcc" else log_mel

    def pick(mask: NDArray[Any]) -> Samples:
        numbers = np.flatnonzero(mask)
        blocks = np.array_split(numbers, max(1, len(numbers) // 256))
        parts = [transform(np.stack([middle_second(clips[i]) for i in block])) for block in blocks if len(block)]
        if not parts:
            raise DataError("no clip of one of the splits", wanted="index 0-4 and above", where=str(path))
        return Samples(np.concatenate(parts)[:, None], y[numbers])

    return RawData(
        name="fsdd" if features == "mfcc" else "fsdd-logmel",
        source=str(path),
        pool=pick(~held),
        test=partial(pick, held),
        classes=10,
        class_names=tuple("0123456789"),
        val_fraction=0.15,
        augmentation=Augmentation(shift=(4, 0)),
        per_column=True,
    )
