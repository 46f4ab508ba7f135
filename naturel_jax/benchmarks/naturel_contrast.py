"""NatuRel's test captions with a second photo, in which the same classes are in another relation: scores that cannot be
won from the captions alone.

``choice``: the true caption prefers its own photo to the second one, of which it is false. A model that ignores the
photos scores exactly 0.5, since a tie counts as half. Where the false caption is true of the second photo, the item has
two photos and a caption for each, and is scored as in Winoground: ``text``, ``image`` and ``group``, which a model that
ignores the photos never wins.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks import naturel_pairs, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Outcomes, by_value
from naturel_jax.data.items import prepared
from tfds_naturel.common.schema import TRIPLET_KINDS, Triplet
from tfds_naturel.hard_images import mining

SOURCE = naturel_pairs.SOURCE


def read(folder: Path) -> Benchmark:
    """The test split of a prepared TFDS folder, ``.../naturel/<config>/<version>``. Triplets for which ``mining`` finds
    no second photo have no items.
    """
    records = prepared.open_split(folder, "test").records
    survey = prepared.survey(records)
    contrasts = mining.Contrasts(survey)
    problems: list[str] = []
    items: list[Item] = []
    for n in range(len(records)):
        for pair in naturel_pairs.caption_pairs(records[n], problems):
            if not pair.triplet:
                continue
            asserted = Triplet.parse(pair.asserts) if pair.asserts else None
            if contrast := contrasts.find(n, Triplet.parse(pair.triplet), asserted):
                images = tuple(
                    naturel_pairs.photo(folder, "test", records, number, survey.image_ids[number])
                    for number in (n, contrast.image)
                )
                mirrored = {"mirrored": pair.kind} if contrast.mirrored else {}
                items.append(Item(pair.id, images, pair.texts, pair.tags | mirrored))
    metrics: list[Metric] = []
    for kind in TRIPLET_KINDS:
        of_kind = [item for item in items if item.tags["kind"] == kind]
        metrics.append(Metric(f"naturel_contrast/{kind}_choice", "choice", where=("kind", kind)))
        metrics += [
            Metric(f"naturel_contrast/{kind}_{score}", score, where=("mirrored", kind)) for score in rules.STRICT
        ]
        metrics += by_value(f"naturel_contrast/{kind}_choice", "choice", f"{kind} relation", of_kind)
    return Benchmark(
        "naturel_contrast",
        items,
        outcomes,
        metrics,
        problems=problems,
        true_captions=1,
        chance={**rules.GROUPS, "choice": 1 / 2},
    )


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Two photos, two captions: the first is true of photo 1 only, the second of photo 2 only or of neither."""
    s = np.stack(cosines)
    mirrored = np.array(["mirrored" in item.tags for item in items])
    strict = {name: np.where(mirrored, right, np.nan) for name, right in rules.two_by_two(items, cosines).items()}
    choice = (1 + np.sign(s[:, 0, 0] - s[:, 1, 0])) / 2
    return strict | {"choice": choice, "tie": np.where(mirrored, strict["tie"], choice == 0.5)}
