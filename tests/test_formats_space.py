"""Damaged space files: read, or refused in one line; never a traceback."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from damaged_files import damaged_document, damaged_text
from offramp.errors import FormatError
from offramp.search.derive import derive_space
from offramp.search.space import Space
from offramp.search.space_yaml import parse_space, space_from_data, space_text
from search_cases import backbone, free_chip, mixed_chip

INFO, CHIP = backbone(), mixed_chip()
TEXTS = [space_text(derive_space(INFO, chip)) for chip in (CHIP, free_chip())] + [
    "widths: {b1.pw: {min: 8, max: 32, step: 8}}\nexits: {1: gap_fc}\ncores: {b2.pw: [imc]}\n"
]
KNOWN = ("gap_fc", "imc", "b1.pw", "weights", "activations", "min", "max", "step", 8, 16, 2**40, "x" * 5000, "a\nb")


def read_or_refused_in_one_line(read: Callable[[], Space]) -> None:
    try:
        space = read()
    except FormatError as error:
        assert str(error).isprintable()
    else:
        assert space.repair(space.neutral) == space.neutral


@pytest.mark.reader
@given(damaged_document([yaml.safe_load(text) for text in TEXTS], KNOWN))
@settings(max_examples=200)
def test_damaged_spaces_never_end_in_a_traceback(data: Any) -> None:
    read_or_refused_in_one_line(lambda: space_from_data(data, INFO, CHIP, where="space.yaml"))


@pytest.mark.reader
@given(damaged_text(TEXTS))
@settings(max_examples=200)
def test_damaged_text_never_ends_in_a_traceback(text: str) -> None:
    read_or_refused_in_one_line(lambda: parse_space(text, INFO, CHIP))
