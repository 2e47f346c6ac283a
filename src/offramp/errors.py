"""Every exception that Offramp raises on purpose.

A message says what was given, what was wanted, where, and what to write instead. `UserError` is the user's
to mend (exit code 2); `InternalError` is ours (exit code 1). Nothing here knows any other room.
"""

import difflib
from collections.abc import Iterable

LONGEST = 2000
"""Most characters of one part of a message; what a damaged file holds may be endless."""


def one_line(text: str) -> str:
    """Text that a terminal can show on one line: line breaks, control codes and lone surrogates are written out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}... ({len(shown)} characters)"


class OfframpError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(OfframpError):
    """Something that the user gave cannot be used.

    Args:
        given: what was found.
        wanted: what would have been accepted.
        where: file, option or path inside a file (`diana.yaml: $.cores[1].adc_bits`).
        write: a line that would be right, when there is one.
    """

    exit_code = 2

    def __init__(self, given: str, *, wanted: str = "", where: str = "", write: str = "") -> None:
        given, wanted, where, write = (one_line(part) for part in (given, wanted, where, write))
        self.given, self.wanted, self.where, self.write = given, wanted, where, write
        parts = [f"{where}: {given}" if where else given]
        parts += [f"wanted {wanted}"] if wanted else []
        parts += [f"write {write}"] if write else []
        super().__init__("; ".join(parts))


class AccelerationError(UserError):
    """A layer, a bit width or a network that no core of the accelerator can take."""


class DataError(UserError):
    """A dataset that is missing, truncated, of the wrong shape or with labels out of range."""


class FormatError(UserError):
    """A file (YAML, ONNX, manifest, journal) that is damaged, of another version or not understood."""


class InfeasibleError(UserError):
    """Constraints that nothing in the space can meet."""


class TrainingError(OfframpError):
    """Training diverged (a loss that is not finite); a study records it as a failed trial."""


class InternalError(OfframpError):
    """Our fault: an invariant of Offramp itself is broken, or the machine failed (disk full)."""


def choose(kind: str, given: str, known: Iterable[str], *, where: str = "") -> UserError:
    """The error for a name that is not in a closed list: it lists what is known."""
    names = sorted(known)
    near = [n for n in names if n[:3] == given[:3]] or names
    close = sorted(near, key=lambda n: -difflib.SequenceMatcher(None, given, n).ratio())
    return UserError(
        f"unknown {kind} {given!r}",
        wanted=f"one of {', '.join(names)}",
        where=where,
        write=close[0] if close else "",
    )
