"""Every reader of files from elsewhere: what the product's tables have is here, damaged files give one line, and bombs
cost no more than their size allows."""

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.helpers import bombs, readers
from tests.helpers.fuzzing import fuzz
from tests.helpers.readers import READERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Reading `.npy`"),  # of Python 2
    pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning"),  # pickletools, of mutated strings
    pytest.mark.filterwarnings("ignore:.*forkserver:DeprecationWarning"),
]
SLOW = ("source tfds", "source parquet")  # seconds to write or read


def test_every_reader_has_sound_files_and_bombs():
    assert readers.names() - READERS.keys() == set(), "readers without a row in tests/helpers/readers.py"
    assert {reader.kind for reader in READERS.values()} <= bombs.BOMBS.keys()


@pytest.mark.parametrize(
    "count",
    [3, pytest.param(200, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.proof)],
)
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_give_one_line(tmp_path, name, count):
    if count < 200 and name in SLOW:
        pytest.skip("runs with the slow tests")
    files = READERS[name].write(tmp_path)
    fuzz(files, lambda: READERS[name].read(tmp_path), count, READERS[name].allowed, must_refuse=count >= 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_bombs_cost_no_more_than_their_size_allows(tmp_path, name):
    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 1 << 30))
    def run(seed: int) -> None:
        cost, size, what = bombs.cost_of(name, random.Random(seed), tmp_path)
        assert not cost.over(size), f"{what}, {size:,} bytes: {cost.over(size)}"

    run()
