"""Names for the arrays and C structures that compiled functions of this room work on."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

Record: TypeAlias = Any
"""An item of `Records`: what its fields are is said beside each type of record."""

Records: TypeAlias = NDArray[Any]
"""Arrays of records: C structures, which compiled functions are handed by address."""
