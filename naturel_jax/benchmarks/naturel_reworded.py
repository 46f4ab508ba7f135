"""NatuRel's complex test captions in all their wordings: whether a model prefers every true one to the false one, and
whether it sees that they mean the same. Scored like SugarCrepe++ (Dumpala et al., arXiv 2406.11171).
"""

from pathlib import Path

from naturel_jax.benchmarks import naturel_pairs, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, by_value
from tfds_naturel.common.errors import UserError

SOURCE = naturel_pairs.SOURCE


def read(folder: Path) -> Benchmark:
    """The test split of a prepared TFDS folder, ``.../naturel/<config>/<version>``.

    An item is an image with all true wordings of a complex caption and, last, the false caption in its fixed wording.
    Raises UserError if no caption has several wordings.
    """
    problems: list[str] = []
    items: list[Item] = []
    for image, pair in naturel_pairs.photos(folder, "test", problems):
        if pair.kind == "complex" and pair.wordings:
            captions = (pair.texts[0], *pair.wordings, pair.texts[1])
            items.append(Item(pair.id, (image,), captions, pair.tags, caption_rows=True))
    if not items:
        raise UserError(
            f"{folder}: no complex caption of its split 'test' has several wordings; naturel_reworded needs a dataset "
            "built with a caption bank that has paraphrases"
        )
    wordings = {len(item.captions) - 1 for item in items}
    metrics: list[Metric] = []
    for score in ("image_to_text", "text_only"):
        metrics.append(Metric(f"naturel_reworded/{score}", score))
        metrics += by_value(f"naturel_reworded/{score}", score, "relation", items)
    return Benchmark(
        "naturel_reworded",
        items,
        rules.wordings,
        metrics,
        problems=problems,
        true_captions=wordings.pop() if len(wordings) == 1 else 0,
        chance=rules.WORDINGS,
    )
