"""One bad record never ends a job: every reader, with good records among bad ones, through ``evaluate``."""

import pytest

from naturel_jax import evaluate
from naturel_jax.benchmarks import order, registry
from naturel_jax.evaluators import results
from tests.helpers.bad_records import FILES, make
from tests.helpers.benchmark_files import SAME_READER
from tests.helpers.model_files import save_hf


@pytest.fixture(autouse=True)
def tags(monkeypatch):
    """Instead of spaCy: every word is a noun."""
    monkeypatch.setattr(order, "spacy_tags", lambda texts: [[(w, "NN") for w in text.split()] for text in texts])


def test_every_reader_is_tried():
    official = {name for name in registry.BENCHMARKS if not registry.reads_dataset(name)}
    assert FILES.keys() == official - {*SAME_READER}


@pytest.mark.parametrize("name", FILES)
def test_reader_keeps_the_good_records_and_reports_the_others(tmp_path, name):
    good = make(name, tmp_path)
    (benchmark,) = registry.read([name], files=tmp_path)
    assert len(benchmark.items) >= good
    assert benchmark.problems or name == "zeroshot"
    for problem in benchmark.problems:
        problem.encode()  # can be printed
        assert "\n" not in problem and len(problem) < 1000, problem
    for item in benchmark.items:
        str((item.id, item.captions, item.tags)).encode()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # a plot of tags of 5,000 characters
def test_evaluation_ends_with_scores(tmp_path):
    good = {name: make(name, tmp_path / "files") for name in FILES}
    arguments = ["--models", f"m={save_hf(tmp_path / 'm', 'tiny-clip')}", "--benchmarks", *FILES]
    arguments += ["--benchmarks_dir", str(tmp_path / "files"), "--out", str(tmp_path / "out"), "--batch_size", "8"]
    evaluate.main(arguments)
    found = {result.benchmark: result for result in results.load(tmp_path / "out")}
    assert found.keys() == FILES.keys()
    for name, result in found.items():
        assert result.items >= good[name] and result.problems, name
