"""UCI Human Activity Recognition: 2.56 s windows of a smartphone's motion sensors at 50 Hz.

10,299 windows of 30 people (Anguita et al., ESANN 2013, doi 10.24432/C54S4K); the official split keeps people apart,
and so does the validation split here. A window is a picture: channels are the sensors (body acceleration, gyroscope,
total acceleration), H is time (128), W the axes x, y, z. Integers are 1/4096 g and 1/4096 rad/s.
"""

from pathlib import Path

from offramp.data.files import expect, find_file, read_npz
from offramp.data.raw import Augmentation, RawData, Samples
from offramp.errors import DataError

FILE = "uci_har_i16.npz"
SCALE = 1.0 / 4096.0
NAMES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")


def read_har(folder: Path | None, seed: int) -> RawData:
    """Motion windows as (N, 3, 128, 3).

    Raises:
        DataError: the file is missing, truncated or inconsistent.
    """
    path = find_file(folder, FILE, inside=("har",), dataset="har")
    arrays = read_npz(path, ("x", "y", "subject", "test"))
    x = expect(arrays["x"], (None, 9, 128), "i", what="x", where=path)
    y = expect(arrays["y"], (len(x),), "iu", what="y", where=path)
    subject = expect(arrays["subject"], (len(x),), "iu", what="subject", where=path)
    test = expect(arrays["test"], (len(x),), "b", what="test", where=path)
    if test.all() or not test.any():
        raise DataError("the test mask leaves one split empty", wanted="some of both", where=str(path))
    pictures = x.reshape(-1, 3, 3, 128).transpose(0, 1, 3, 2)
    return RawData(
        name="har",
        source=str(path),
        pool=Samples(pictures[~test], y[~test]),
        test=lambda: Samples(pictures[test], y[test]),
        classes=len(NAMES),
        class_names=NAMES,
        groups=subject[~test],
        val_fraction=0.2,
        augmentation=Augmentation(shift=(8, 0)),
        scale=SCALE,
        per_column=True,
    )
