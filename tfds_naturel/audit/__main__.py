"""Audits a caption bank: checks every caption, measures variety, and tests how predictable labels are from text alone.

    naturel-data-audit --out report/

writes ``report.md`` and ``review.html``, a page where annotators keep or reject captions, with photos from the folder
of the fetcher. If any caption fails a check, the command fails after writing the report. ``--world scenes`` writes a
``report.md`` on text-only models and the captions of a drawn world.

    naturel-data-audit --review review/ --sample 120 --assign anna,ben,carla --overlap 2
    naturel-data-audit --agreement agreement/ --decisions decisions-*.csv [--adjudicated adjudicated-dora.csv]

write the page alone, with a sample of the pairs divided among people; and, from their files, a report on how far they
agree, a page on which somebody decides where they do not, and the decisions for the builder.

    naturel-data-audit --readers questions/
    naturel-data-audit --readers questions/ --score ANSWERS.tsv [MORE.tsv]

samples captions and pairs of the bank for readers to judge, as a page and a table, and says what their answers show.
``--dataset data/naturel/full/4.1.0`` samples bindings and positions of a prepared dataset instead; with ``--review``,
the page shows them with their photos, and ``--readers review/ --score`` counts what is wrong.
"""

import argparse
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfds_naturel.audit import (
    agreement,
    attack,
    attack_report,
    exchanged,
    form,
    label_studio,
    other_benchmarks,
    readers,
    review,
)
from tfds_naturel.audit.attack import Pair
from tfds_naturel.captions import bank as banks
from tfds_naturel.captions import checks, decisions, grammar
from tfds_naturel.captions.bank import Bank
from tfds_naturel.common import cli, escape, pages
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import unlinked
from tfds_naturel.common.schema import Triplet
from tfds_naturel.scenes.scene import CONFIGS, ScenesConfig

PHOTOS = Path("open_images")  # where the README's commands put them
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
_USED = {  # what is asked for, by the first of these flags that is given -> the flags that go with it
    "world": ("out",),
    "score": ("readers",),
    "out": ("bank", "photos", "sugarcrepe"),
    "review": ("bank", "photos", "seed", "sample", "assign", "overlap", "label_studio", "dataset"),
    "agreement": ("bank", "photos", "decisions", "adjudicated"),
    "readers": ("bank", "dataset", "seed", "captions", "pairs", "sugarcrepe"),
}
_NEEDS = {"overlap": "assign", "agreement": "decisions"}
_BLEU_SAMPLE = 200  # captions compared with one another


def main(arguments: Sequence[str]) -> None:
    """The command line. Raises UserError when a caption fails a check."""
    parser = argparse.ArgumentParser(
        prog="naturel-data-audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    captions = parser.add_mutually_exclusive_group()
    captions.add_argument("--bank", type=cli.on_disk, help="bank file (default: ours)")
    captions.add_argument("--dataset", type=cli.on_disk, help="prepared dataset: its bindings and positions instead")
    parser.add_argument("--world", choices=CONFIGS, help="attack the complex captions of this drawn world instead")
    folder = parser.add_mutually_exclusive_group(required=True)
    folder.add_argument("--out", type=cli.on_disk, help="folder for the report")
    folder.add_argument("--review", type=cli.on_disk, help="folder for the review page alone, without the attacks")
    folder.add_argument("--agreement", type=cli.on_disk, help="folder for a report on annotators' --decisions")
    folder.add_argument("--readers", type=cli.on_disk, help="folder for questions to readers, instead of a report")
    parser.add_argument("--seed", type=int, default=0, help="seed of samples and shares (default: %(default)s)")
    parser.add_argument("--sample", type=int, help="pairs in --review (default: all of the bank; 100 of --dataset)")
    parser.add_argument("--assign", help="names of the people who share the pairs of --review: anna,ben")
    parser.add_argument("--overlap", type=int, help="people of --assign who judge a pair (default: 2, or all of one)")
    parser.add_argument("--label_studio", action="store_true", help="write --review also as tasks of Label Studio")
    parser.add_argument("--captions", type=int, default=300, help="number of captions to judge (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=240, help="number of pairs to choose from (default: %(default)s)")
    parser.add_argument("--score", type=cli.on_disk, nargs="+", help="readers' answers to the questions in --readers")
    parser.add_argument("--sugarcrepe", type=cli.on_disk, help="folder of SugarCrepe's JSON files, for comparison")
    parser.add_argument(
        "--photos",
        type=cli.on_disk,
        help=f"folder of the fetcher, for the review page (default: {PHOTOS}, if it is there)",
    )
    parser.add_argument(
        "--decisions", type=cli.on_disk, nargs="+", help="annotators' files, CSV of the page or JSON of Label Studio"
    )
    parser.add_argument("--adjudicated", type=cli.on_disk, help="file of whoever decided what --agreement listed")
    options = parser.parse_args(arguments)
    given = [flag for flag, value in vars(options).items() if value != parser.get_default(flag)]
    asked = next(flag for flag in _USED if flag in given)
    if unused := [flag for flag in given if flag not in (asked, *_USED[asked])]:
        parser.error(f"--{unused[0]}: not used with --{asked}, which goes with --{', --'.join(_USED[asked])}")
    if options.dataset and (unused := [flag for flag in ("photos", "label_studio") if flag in given]):
        parser.error(f"--{unused[0]}: not used with --dataset, which has its own photos, and no decisions")
    if missing := [(flag, needed) for flag, needed in _NEEDS.items() if flag in given and needed not in given]:
        parser.error("--{}: needs --{}".format(*missing[0]))
    commands = {"review": _review, "agreement": _agreement, "readers": _readers, "score": _readers}
    commands.get(asked, _report)(options)


def _report(options: argparse.Namespace) -> None:
    """Checks and attacks the bank or a world."""
    if options.world:
        report = "\n".join(_world(CONFIGS[options.world]))
        options.out.mkdir(parents=True, exist_ok=True)
        unlinked(options.out / "report.md").write_text(report, encoding="utf-8")
        print(report)
        return
    bank = banks.load(options.bank)
    problems = checks.check(bank) if options.bank else [*checks.check(banks.load(release="v6")), *checks.style(bank)]
    sugarcrepe = other_benchmarks.sugarcrepe(options.sugarcrepe) if options.sugarcrepe else {}
    others = {f"SugarCrepe {name}": sugarcrepe[name] for name in ("replace_rel", "swap_obj") if name in sugarcrepe}
    lines = [*_summary(bank, problems), *_variety(bank, sugarcrepe)]
    pairs, views = attack_report.bank_pairs(bank), attack_report.bank_views(bank)
    wins = attack_report.attack_all(pairs, views)
    lines += attack_report.section(pairs, wins, views, others)
    if len(every := attack_report.all_pairs(bank)) > len(pairs):
        lines += attack_report.paraphrases(every, views)
    lines += _balance(bank)
    options.out.mkdir(parents=True, exist_ok=True)
    unlinked(options.out / "report.md").write_text("\n".join(lines), encoding="utf-8")
    screens = review.screens(bank)
    unlinked(options.out / "review.html").write_text(review.page(screens, _photos(options, bank)), encoding="utf-8")
    print("\n".join(lines))
    if problems:
        raise UserError(f"{options.bank or 'bank'}: {len(problems)} problems, listed in {options.out / 'report.md'}")


def _photos(options: argparse.Namespace, triplets: Container[Triplet]) -> dict[Triplet, list[review.Shown]]:
    folder = options.photos or (PHOTOS if PHOTOS.is_dir() else None)
    return review.find_photos(folder, triplets) if folder else {}


def _review(options: argparse.Namespace) -> None:
    """Writes the review page."""
    if options.dataset:
        _review_photos(options)
        return
    screens = review.screens(banks.load(options.bank))
    if options.sample is not None:
        screens = review.sample(screens, options.sample, options.seed)
    people = _assigned(options, len(screens))
    shown = _photos(options, {Triplet.parse(screen.title) for screen in screens})
    options.review.mkdir(parents=True, exist_ok=True)
    unlinked(options.review / "review.html").write_text(review.page(screens, shown, people), encoding="utf-8")
    if options.label_studio:
        tasks = json.dumps(label_studio.tasks(screens, shown), ensure_ascii=False)
        unlinked(options.review / "tasks.json").write_text(tasks, encoding="utf-8")
        unlinked(options.review / "labeling.xml").write_text(label_studio.config(), encoding="utf-8")
    shares = "".join(f"; {name}: {len(own)}" for name, own in (people or {}).items())
    print(f"{options.review / 'review.html'}: {len(screens)} pairs, {len(shown)} triplets with photos{shares}")


def _assigned(options: argparse.Namespace, number: int) -> dict[str, list[int]] | None:
    """The screens, of ``number``, of each person in ``--assign``."""
    names = [] if options.assign is None else form.names(options.assign)
    overlap = min(2, len(names)) if options.overlap is None else options.overlap
    return form.assign(number, names, overlap, options.seed) if names else None


def _review_photos(options: argparse.Namespace) -> None:
    """Writes the page that asks about photos of a dataset, and its key."""
    rng = np.random.default_rng(options.seed)
    splits = exchanged.open_splits(options.dataset)
    found = exchanged.draw(exchanged.find(splits), lambda found: (found.pair.group, found.facts), rng)
    number = 100 if options.sample is None else options.sample
    if not 0 < number <= len(found):
        raise UserError(f"--sample {number}: expected a number from 1 to {len(found)}, the pairs of the dataset")
    chosen = [found[n] for n in form.sample([f"{f.pair.kind} {f.pair.relation}" for f in found], number, rng)]
    screens, items, photos = exchanged.screens(splits, chosen, rng)
    options.review.mkdir(parents=True, exist_ok=True)
    page = form.page(readers.PHOTO_FORM, screens, _assigned(options, number), photos)
    unlinked(options.review / "review.html").write_text(page, encoding="utf-8")
    readers.write_key(options.review, items)
    print(f"{options.review / 'review.html'}: {number} pairs; people need it, and not key.tsv")


def _agreement(options: argparse.Namespace) -> None:
    """Reports on annotators' files, and writes their disagreements and decisions."""
    people = decisions.read(options.decisions)
    decided = decisions.read([options.adjudicated]) if options.adjudicated else {}
    adjudicated = {key: decision for by_one in decided.values() for key, decision in by_one.items()}
    if len(adjudicated) < sum(map(len, decided.values())):
        who = " and ".join(decided)
        raise UserError(f"--adjudicated {options.adjudicated}: {who} decide the same caption; keep one row of it")
    lines = agreement.report(people)
    disputed = agreement.disagreements(people)
    left = {key: said for key, said in disputed.items() if key not in adjudicated}
    bank = banks.load(options.bank)
    screens = review.disputed(review.screens(bank), disputed)  # all, for whoever has decided some to continue
    folder = options.agreement
    folder.mkdir(parents=True, exist_ok=True)
    shown = _photos(options, {triplet for triplet, _ in disputed})
    page = review.page(screens, shown, asked=review.ADJUDICATION)
    unlinked(folder / "adjudicate.html").write_text(page, encoding="utf-8")
    rows = [(str(triplet), escape.cell(text), escape.cell(said)) for (triplet, text), said in left.items()]
    agreement.write(folder / "disagreements.csv", ("triplet", "text", "said"), rows)
    settled = agreement.settled(people, adjudicated)
    agreement.write(folder / "decisions.csv", (*decisions.COLUMNS, "reason"), settled)
    lines += _not_written([(triplet, text) for triplet, text, *_ in settled], bank)
    lines += [
        f"{len(disputed)} captions are disputed (`adjudicate.html`), and {len(left)} of them are left to decide "
        f"(`disagreements.csv`). `decisions.csv` has all {len(settled)}: as adjudicated, or else as most people said; "
        "a tie is `unclear`, and the builder keeps the caption.",
        "",
    ]
    unlinked(folder / "report.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _not_written(judged: Sequence[tuple[str, str]], bank: Bank) -> list[str]:
    """A paragraph on the (triplet, text) that are not in the bank, if there are any."""
    written = {(str(caption.triplet), caption.text) for captions in bank.values() for caption in captions}
    if not (unknown := [": ".join(pair) for pair in judged if pair not in written]):
        return []
    problem = f"{len(unknown)} captions are not in the bank, such as {escape.code(unknown[0])}"
    return [f"{problem}: they are of another `--bank`, or changed by a spreadsheet. The builder goes by the text.", ""]


def _readers(options: argparse.Namespace) -> None:
    """Writes questions, or reports on the answers."""
    if options.score:
        report = "\n".join(readers.report(options.readers, options.score))
        unlinked(options.readers / "answers.md").write_text(report, encoding="utf-8")
        readers.write_text_alone(options.readers, options.score)
        print(report)
        return
    subsets = other_benchmarks.sugarcrepe(options.sugarcrepe).values() if options.sugarcrepe else ()
    people = sorted({pair.true for pairs in subsets for pair in pairs})
    if options.dataset:
        found = exchanged.find(exchanged.open_splits(options.dataset))
        rng = np.random.default_rng(options.seed)
        pairs = [of.pair for of in exchanged.draw(found, lambda of: frozenset((of.pair.true, of.pair.false)), rng)]
    else:
        pairs = attack_report.all_pairs(banks.load(options.bank))
    items = readers.sample(pairs, people, options.captions, options.pairs, options.seed)
    readers.write(options.readers, items)
    print(f"{options.readers}: {len(items)} questions; readers need questions.html or questions.tsv, and not key.tsv")


def _world(config: ScenesConfig) -> list[str]:
    from tfds_naturel.scenes import examples  # imports TFDS, which is slow, and `--help` does not need it

    seen, unseen = (
        [
            pair
            for triplet in sorted(world.triplets)
            for captions in examples.caption_sets(config, triplet)
            for pair in attack_report.bank_pairs({triplet: captions})
        ]
        for world in config.compositions()
    )
    lines = [
        f"# Captions of the drawn world {config.name}",
        "",
        f"{len(seen)} pairs of seen triplets, {len(unseen)} of held-out ones.",
        "",
    ]
    return lines + attack_report.world_section(seen, unseen, attack.views(config.classes))


def _summary(bank: Bank, problems: list[str]) -> list[str]:
    captions, fixed = sum(map(len, bank.values())), banks.FIXED * len(bank)
    wordings = f", {fixed} of them paraphrase 0" if captions > fixed else ""
    verdict = f"{len(problems)} problems:" if problems else "every caption passes every check."
    lines = ["# Caption audit", "", f"{captions} captions of {len(bank)} triplets{wordings}; {verdict}"]
    return [
        *lines,
        "Tokens counted with an upper bound of 1.6 tokens per word.",
        "",
        *(f"- {escape.markdown(problem)}" for problem in problems),
        "",
    ]


def _variety(bank: Bank, sugarcrepe: Mapping[str, Sequence[Pair]]) -> list[str]:
    grammar_alone = {t: grammar.write(t, np.random.default_rng(zlib.crc32(str(t).encode()))) for t in bank}
    sources = {"bank": attack_report.bank_pairs(bank), "grammar alone": attack_report.bank_pairs(grammar_alone)}
    if sugarcrepe:
        every = list(itertools.chain.from_iterable(sugarcrepe.values()))
        first = {pair.group: n for n, pair in reversed(list(enumerate(every)))}
        sources["SugarCrepe"] = sorted(every, key=lambda pair: first[pair.group])  # pairs of one image together
    rows = []
    for name, pairs in sources.items():
        texts = [text for pair in pairs for text in (pair.true, pair.false)]
        values = [*(distinct(texts, n) for n in (1, 2, 3)), self_bleu(texts)]
        rows.append((name, *(f"{value:.3f}" for value in values)))
    head = ("", "distinct-1", "distinct-2", "distinct-3", "self-BLEU")
    return ["## Variety of the complex pairs", "", *pages.table(head, rows), ""]


def _balance(bank: Bank) -> list[str]:
    captions = [caption for pair in attack_report.complex_captions(bank) for caption in pair]
    by_polarity = {p: [c for c in captions if c.polarity == p] for p in ("positive", "negative")}
    lengths = [np.array([len(c.text.split()) for c in group]) for group in by_polarity.values()]
    rows = [("words, mean (5th-95th percentile)", *map(_spread, lengths))]
    shapes = [Counter(c.shape for c in group) for group in by_polarity.values()]
    used = [Counter(word for c in group for word in {*_WORD.findall(c.text.lower())}) for group in by_polarity.values()]
    for shape, _ in (shapes[0] + shapes[1]).most_common():
        rows.append((f"shape: {shape}", *(f"{count[shape] / count.total():.1%}" for count in shapes)))
    uneven = sorted(used[0].keys() | used[1].keys(), key=lambda word: (-abs(used[0][word] - used[1][word]), word))
    rows += [(f"captions with {word!r}", *(str(count[word]) for count in used)) for word in uneven[:12]]
    table = pages.table(("", "positive", "negative"), rows)
    return ["## Balance", "", *table, "", "The words listed are the most unevenly distributed ones.", ""]


def _spread(lengths: np.ndarray) -> str:
    low, high = np.percentile(lengths, (5, 95))
    return f"{lengths.mean():.2f} ({low:.0f}-{high:.0f})"


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> float:
    """Number of distinct n-grams divided by the number of all n-grams (distinct-n, Li et al. 2016)."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams)


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU-4 of each caption against the others in a sample of 200 (Zhu et al. 2018); lower is more varied.

    A count of 0 matching n-grams is replaced by 0.1 (smoothing 1 of Chen and Cherry 2014).
    """
    sample: list[int] = np.random.default_rng(0).permutation(len(texts))[:_BLEU_SAMPLE].tolist()
    counts = [[Counter(_grams(texts[i], n)) for n in range(1, 5)] for i in sample]
    return float(np.mean([_bleu(counts, row) for row in range(len(counts))]))


def _bleu(counts: list[list[Counter]], row: int) -> float:
    others = counts[:row] + counts[row + 1 :]
    logs = []
    for n, grams in enumerate(counts[row]):
        if not grams:
            continue
        best = {gram: max(other[n][gram] for other in others) for gram in grams}
        matched = sum(min(count, best[gram]) for gram, count in grams.items())
        logs.append(np.log(max(matched, 0.1) / grams.total()))
    length = counts[row][0].total()
    nearest = min((other[0].total() for other in others), key=lambda total: (abs(total - length), total))
    return float(np.exp(np.mean(logs) + min(0.0, 1 - nearest / length)))


if __name__ == "__main__":
    cli.run(main)
