"""What every test starts from."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Several test processes on few cores get in each other's way: with a thread per core in each, convolutions in
# float64 were eight times slower. Set before torch is imported, and inherited by commands that tests run.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import detr  # noqa: F401 - before torch, whose threads it keeps from spinning

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

DATA = Path(__file__).resolve().parents[1] / "data"  # where the README's commands generate the embedded data set
THERE = DATA.exists()


@pytest.fixture(autouse=True)
def no_data_set_is_left_in_the_checkout() -> Iterator[None]:
    """A test that generates one says where: its small one would keep `make demo` from its own."""
    yield
    assert THERE or not DATA.exists()
