"""Every reader of files from elsewhere: what the product's tables have is here, damaged files give one line, and bombs
cost no more than their size allows."""

import sys
import threading
from collections.abc import Iterator

import pytest

from tests.helpers import bombs, costs, readers
from tests.helpers.fuzzing import fuzz
from tests.helpers.readers import READERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:Reading `.npy`"),  # of Python 2
    pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning"),  # pickletools, of mutated strings
    pytest.mark.filterwarnings("ignore:.*forkserver:DeprecationWarning"),
]
SLOW = ("source tfds", "source parquet")  # seconds to write or read


def test_every_reader_has_sound_files_and_bombs():
    assert readers.names() - READERS.keys() == set(), "readers without a row in tests/helpers/readers.py"
    assert {reader.kind for reader in READERS.values()} <= bombs.BOMBS.keys()


# Modules that open files and are not run by a reader of the table: why.
ELSEWHERE = {
    "files of the project": """naturel_jax/report/known_scores.py
        tfds_naturel/captions/attributes.py tfds_naturel/captions/lexicon.py tfds_naturel/captions/relations.py
        tfds_naturel/open_images/releases.py tfds_naturel/release/datasheet.py tfds_naturel/release/pages.py
        tfds_naturel/scenes/twins.py naturel_jax/cli/sweeps/grids.py""",
    "state of a run or of a cache, in test_fuzz_files.py and the tests of checkpoints": """
        naturel_jax/checkpoints/finished.py naturel_jax/checkpoints/manifest.py naturel_jax/data/items/index.py
        naturel_jax/data/seen/trained_on.py naturel_jax/evaluators/watch.py naturel_jax/report/published.py
        naturel_jax/reproduce/runner.py naturel_jax/storage/staging.py naturel_jax/storage/state.py
        naturel_jax/training/run_folder.py naturel_jax/training/start.py naturel_jax/training/ready.py
        naturel_jax/storage/leases.py naturel_jax/cli/sweeps/runs.py naturel_jax/cli/sweeps/search.py
        naturel_jax/weights/runs.py naturel_jax/evaluators/examples.py naturel_jax/report/provenance.py""",
    "prepared datasets, in test_benchmarks_tfds.py": "naturel_jax/benchmarks/naturel_exchanged.py",
    "answers of readers, in test_readers.py of tfds_naturel": "tfds_naturel/audit/readers.py",
    "tables and photos of Open Images, in test_fuzz_files.py": """tfds_naturel/open_images/annotations.py
        tfds_naturel/open_images/attribution.py tfds_naturel/open_images/journal.py""",
    "answers of servers, in test_hub.py and test_benchmarks_download.py": """naturel_jax/benchmarks/download.py
        naturel_jax/benchmarks/coco.py naturel_jax/reproduce/coco_train.py naturel_jax/weights/hub.py""",
    "requests to naturel-try, in test_playground.py": """naturel_jax/report/playground/playground.py
        naturel_jax/report/playground/server.py""",
    "releases, in test_release.py": "tfds_naturel/release/files.py",
    "a pool that naturel-embed has written, in test_pool.py": """naturel_jax/evaluators/pool/embedded.py
        naturel_jax/evaluators/pool/files.py naturel_jax/evaluators/pool/index.py""",
    "images that a run has drawn": "naturel_jax/training/mistakes.py naturel_jax/training/writers.py",
    "files that another reader has opened": """naturel_jax/evaluators/embed.py naturel_jax/evaluators/mistakes.py
        naturel_jax/weights/verify.py tfds_naturel/audit/other_benchmarks.py""",
}


@pytest.mark.slow
def test_every_module_that_opens_files_is_run_by_a_reader(tmp_path):
    run = set()
    for name, reader in READERS.items():
        folder = tmp_path / name.replace("/", " ")
        folder.mkdir()
        reader.write(folder)
        threading.setprofile(lambda frame, *_: run.add(frame.f_code.co_filename))
        sys.setprofile(lambda frame, *_: run.add(frame.f_code.co_filename))
        try:
            reader.read(folder)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    listed = {module for group in ELSEWHERE.values() for module in group.split()}
    left = {module for module in readers.modules() - listed if not any(path.endswith("/" + module) for path in run)}
    assert not left, f"modules that open files, which no row of tests/helpers/readers.py runs: {sorted(left)}"


@pytest.mark.parametrize(
    ("name", "count"),
    [(name, 3) for name in READERS if name not in SLOW]
    + [pytest.param(name, 20, marks=pytest.mark.slow) for name in READERS]
    + [pytest.param(name, 10_000, marks=pytest.mark.proof) for name in READERS],
)
def test_damaged_files_give_one_line(tmp_path, name, count):
    files = READERS[name].write(tmp_path)
    is_table = name.startswith("source ") or name == "benchmark urban1k"  # whose bad records are listed
    fuzz(
        files,
        lambda: READERS[name].read(tmp_path),
        count,
        READERS[name].allowed,
        must_refuse=count > 3 and not is_table,
    )


def each_once() -> Iterator[tuple[str, int]]:
    """(reader, number of a bomb): each bomb of a kind once, for the readers of that kind in turn."""
    for kind, of_kind in bombs.BOMBS.items():
        names = [name for name, reader in READERS.items() if reader.kind == kind]
        yield from ((names[number % len(names)], number) for number in range(len(of_kind)))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [pytest.param(name, [number], marks=pytest.mark.slow, id=f"{name}-{number}") for name, number in each_once()]
    + [pytest.param(name, range(20), marks=pytest.mark.proof, id=name) for name in READERS],
)
def test_bombs_cost_no_more_than_their_size_allows(tmp_path, name, numbers):
    for number in numbers:
        cost, size, what = costs.cost_of(name, number, tmp_path)
        assert not cost.over(size), f"{what}, {size:,} bytes: {cost.over(size)}"
