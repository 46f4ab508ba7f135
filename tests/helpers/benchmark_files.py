"""Small benchmark folders in the official file formats, with generated images."""

import csv
import functools
import io
import itertools
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks import sugarcrepe_pp as pp
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from naturel_jax.benchmarks.suites import LANGUAGES, SPEC_PARTS
from naturel_jax.benchmarks.valse import IMAGES
from tests.helpers.image_files import encoded


def png(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A PNG of ``size`` (width, height) with smooth noise that depends on ``seed``."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return encoded(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def write(path: Path, data) -> None:
    """Writes bytes unchanged and anything else as JSON; creates parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def lines(rows: Iterable) -> bytes:
    """A JSON record a line."""
    return "\n".join(map(json.dumps, rows)).encode()


def read(name: str, root: Path) -> Benchmark:
    """The benchmark ``name`` of the files in ``root``."""
    return registry.read([name], files=root)[0]


def values(benchmark: Benchmark, cosines: Iterable) -> dict[str, float]:
    """Metric -> score of these matrices."""
    matrices = [np.array(matrix, float) for matrix in cosines]
    return {name: score.value for name, score in benchmark.score(benchmark.items, matrices).items()}


def winoground(root: Path, items: int = 4, **changes) -> list[dict]:
    """Writes ``items`` items; ``changes`` override fields of the first one. Returns the rows."""
    rows = []
    for n in range(items):
        thing, kind = ("cat", "dog", "cup", "tree")[n % 4], ("Object", "Relation", "Both")[n % 3]
        row = {"id": n, "image_0": f"ex_{n}_img_0", "image_1": f"ex_{n}_img_1"}
        row |= {"caption_0": f"a {thing} on a box {n}", "caption_1": f"a box on a {thing} {n}"}
        rows.append(row | {"tag": "Noun", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": kind})
    if changes:
        rows[0] |= changes
    write(root / "winoground/data/examples.jsonl", lines(rows))
    with zipfile.ZipFile(root / "winoground/images.zip", "w") as archive:
        for n in range(items):
            for k in (0, 1):
                archive.writestr(f"images/ex_{n}_img_{k}.png", png(2 * n + k))
    return rows


def visual_genome(root: Path, items: int = 6) -> tuple[list[dict], list[dict]]:
    """VG-Relation (including the excluded relation ``near``) and VG-Attribution, over three images."""
    box = {"bbox_x": 4, "bbox_y": 2, "bbox_w": 40, "bbox_h": 30}
    relation, attribution = [], []
    for n in range(items):
        name = ("on", "under", "near")[n % 3]
        pair = {"image_id": str(n % 3), "image_path": f"{n % 3}.png"} | box
        captions = (f"the cat is {name} the box {n}", f"the box is {name} the cat {n}")
        named = {"relation_name": name, "relation_info": {"object": "2", "name": name}}
        named |= {"primary_object_id": "1", "primary_object_name": "cat"}
        relation.append(pair | dict(zip(("true_caption", "false_caption"), captions, strict=True)) | named)
        captions = (f"the red cat and the small box {n}", f"the small cat and the red box {n}")
        named = {"attributes": ["red", "small"]}
        attribution.append(pair | dict(zip(("true_caption", "false_caption"), captions, strict=True)) | named)
    write(root / "aro/visual_genome_relation.json", relation)
    write(root / "aro/visual_genome_attribution.json", attribution)
    write(root / "aro/vgr_excluded_relations.json", ["near"])
    for n in range(3):
        write(root / f"aro/images/{n}.png", png(100 + n))
    return relation, attribution


def sugarcrepe(root: Path, items: int = 3) -> None:
    """SugarCrepe's seven files, with ``items`` records each, over five images."""
    for k, name in enumerate(SUBSETS):
        rows = {}
        for n in range(items):
            captions = {"caption": f"a cat with a hat {name} {n}", "negative_caption": f"a hat with a cat {name} {n}"}
            rows[str(n)] = {"filename": f"{(k + n) % 5:012d}.png", **captions}
        write(root / f"sugarcrepe/{name}.json", rows)
    for n in range(5):
        write(root / f"coco/val2017/{n:012d}.png", png(200 + n))


def karpathy(root: Path, file: str = "coco/coco_karpathy_test.json", images: str = "val2014") -> None:
    """Karpathy's test split in ``root/file``: three images with two captions each, in the folder ``images``."""
    rows = [{"image": f"{images}/{n}.png", "caption": [f"a cat on box {n} {k}" for k in "ab"]} for n in range(3)]
    write(root / file, rows)
    for n in range(3):
        write((root / file).parent / images / f"{n}.png", png(n))


flickr30k = functools.partial(karpathy, file="flickr30k/flickr30k_test.json", images="flickr30k-images")


def whatsup(root: Path) -> None:
    """What'sUp's controlled images, four of each set, and its questions about COCO and Visual Genome."""
    options = ["a mug on a table", "a mug under a table", "a mug left of a table", "a mug right of a table"]
    for name, relations in (("images", "left_of right_of on under"), ("clevr", "left_of right_of in-front_of behind")):
        paths = [f"data/controlled_{name}/mug_{relation}_table.jpeg" for relation in relations.split()]
        rows = [{"image_path": path, "caption_options": options} for path in paths]
        write(root / f"whatsup/controlled_{name}_dataset.json", rows)
        for path in paths:
            write(root / "whatsup" / path.removeprefix("data/"), png(1))
    for source in ("coco", "vg"):
        for number in ("one", "two"):
            write(root / f"whatsup/{source}_qa_{number}_obj.json", [[785, "a cat left", "a cat right"]])
    write(root / "coco/val2017/000000000785.jpg", png(1))
    write(root / "whatsup/vg_images/785.jpg", png(2))


def sugarcrepe_pp(root: Path) -> None:
    """SugarCrepe++'s five files, with one record each."""
    row = {"id": 7, "filename": "a.png", "caption": "p1", "caption2": "p2", "negative_caption": "n"}
    for name in pp.SUBSETS:
        write(root / f"sugarcrepe_pp/{name}.json", [row])
    write(root / "coco/val2017/a.png", png(1))


HUB_COLUMNS = {
    "bivlc": ("image", "negative_image", "caption", "negative_caption", "type", "subtype"),
    "vismin": ("image_0", "image_1", "text_0", "text_1", "category", "id"),
    "colorswap": ("image_1", "image_2", "caption_1", "caption_2", "image_source", "caption_source"),
}


def hub_pairs(root: Path, name: str, *changes: dict[int, object]) -> None:
    """A Parquet file of two images, two captions and two tags; and again for each of ``changes``: column -> value."""
    cells = [{"bytes": png(k), "path": None} for k in (1, 2)]
    row = dict(zip(HUB_COLUMNS[name], [*cells, "red cat", "blue cat", "swap", "swap_att"], strict=True))
    changed = [row | {HUB_COLUMNS[name][k]: value for k, value in one.items()} for one in changes]
    (root / name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row, *changed]), root / name / "test-00000.parquet")


def array(pixels: np.ndarray) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=True)
    return buffer.getvalue()


def eqben(root: Path) -> None:
    """EqBen's two kinds of annotation files, with an image stored as an array."""
    write(root / "eqben/images/eqbenag/0.npy", array(np.zeros((8, 6, 3), np.uint8)))
    write(root / "eqben/images/eqbenyoucook2/1.png", png(1))
    row = {"image0": "eqbenyoucook2/1.png", "image1": "eqbenyoucook2/1.png", "caption0": "a", "caption1": "b"}
    listed = {"image0": "eqbenag/0.npy", "image1": "eqbenag/0.npy", "caption0": ["first", "2nd"], "caption1": ["b"]}
    write(root / "eqben/all_select.json", [row])  # the format of the single file for all sources
    write(root / "eqben/ann_ag.json", {"video": {"person": [listed]}})  # Action Genome's format


def valse(root: Path) -> None:
    """VALSE's files, all but one empty; of its four records, two are validated."""
    for name in IMAGES:
        write(root / f"valse/data/{name}.json", {})
    row = {"image_file": "a.png", "caption": "there are cats", "foil": "there are no cats"}
    votes = {str(n): row | {"mturk": {"caption": n, "foil": 3 - n, "other": 0}} for n in range(4)}
    write(root / "valse/data/existence.json", votes)
    write(root / "valse/images/visual7w/a.png", png(1))


def vsr(root: Path, labels: tuple[int, ...] = (0, 1)) -> None:
    """VSR's two splits, a record for each label in each."""
    row = {"image": "a.png", "caption": "The cat is left of the dog.", "relation": "left of"}
    for split in ("dev", "test"):
        write(root / f"vsr/{split}.jsonl", lines(row | {"label": label} for label in labels))
    write(root / "vsr/images/a.png", png(1))


def negbench(root: Path) -> None:
    """NegBench's files of choices and of captions, with two records each; the generated images have answers 0 and 1."""
    files = {
        "COCO_val_mcq_llama3.1_rephrased": ("data/coco/images/val2017/", "coco/val2017/", (0, 0)),
        "VOC2007_mcq_llama3.1_rephrased": (f"data/{VOC}", VOC, (0, 0)),
        "synthetic_mcq_llama3.1_rephrased": (f"data/{GENERATED}positive/", f"negbench/{GENERATED}positive/", (0, 1)),
        "COCO_val_retrieval": ("data/coco/images/val2017/", "coco/val2017/", ()),
        "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true": ("/home/a/val2017/", "coco/val2017/", ()),
        "synthetic_retrieval_v1": (f"data/{GENERATED}positive/", f"negbench/{GENERATED}positive/", ()),
        "synthetic_retrieval_v2": (f"data/{GENERATED}positive/", f"negbench/{GENERATED}positive/", ()),
    }
    for name, (path, folder, answers) in files.items():
        rows = ["filepath,captions"]
        if answers:
            rows = ["image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template"]
        for n in range(2):
            texts = (
                f'{answers[n]},a cat {n},"a dog, no cat",a dog,no cat,hybrid' if answers else f"\"['a {n}', 'no b']\""
            )
            rows.append(f"{path}{n}.png,{texts}")
            write(root / folder / f"{n}.png", png(n))
        write(root / f"negbench/{name}.csv", "\n".join(rows).encode())


VOC = "voc2007/VOCdevkit/VOC2007/JPEGImages/"
GENERATED = "synthetic_visual_negation/data/"


def cola(root: Path) -> None:
    """Cola's multi-object file, with two records."""
    links = [f"https://cs-people.bu.edu/array/data/vg_gqa_images/{n}.jpg" for n in range(3)]
    rows = [[links[n], f"a red cat {n}", links[n + 1], f"a black cat {n}"] for n in range(2)]
    write(root / "cola/COLA_multiobjects_matching_benchmark.json", rows)
    for n in range(3):
        write(root / f"cola/images/{n}.jpg", png(n))


def naturalbench(root: Path) -> None:
    """NaturalBench-Retrieval's file, with two records."""
    rows = [{"image_0": "0.jpg", "caption_0": "a", "image_1": "1.jpg", "caption_1": "b", "index": n} for n in range(2)]
    write(root / "naturalbench_retrieval/metadata.json", rows)
    for n in range(2):
        write(root / f"naturalbench_retrieval/images/{n}.jpg", png(n))


def urban1k(root: Path) -> None:
    """Two of Urban1k's photos."""
    for n in range(2):
        write(root / f"urban1k/caption/{n}.txt", f"A street, {n} cars. A long caption.\nIgnored.\n".encode())
        write(root / f"urban1k/image/{n}.jpg", png(n))


def imagecode(root: Path) -> None:
    """ImageCoDe's validation file: a set of photos, and one of frames whose numbers have gaps."""
    rows = {"open-images-1_ab": {"3": " a deer\n"}, "MSR-VTT-video1": {"0": "a girl", "2": "two girls"}}
    write(root / "imagecode/valid_data.json", rows)
    for name, step in zip(rows, (1, 4), strict=True):
        for n in range(10):
            write(root / f"imagecode/image-sets/{name}/img{n * step}.jpg", png(n))


def negrefcocog(root: Path) -> None:
    """NegRefCOCOg's file: the reference is the second box of the second record."""
    boxes = [[1.74, 0, 38.26, 40], [0, 0.4, 20, 30.2]]
    rows = [{"phrase": f"a bear with no hat {n}", "ref_bbox": boxes[n], "bbox_list": boxes} for n in range(2)]
    write(root / "negrefcocog/NegRefCOCOg.json", [row | {"image": "COCO_train2014_1.png"} for row in rows])
    write(root / "coco/train2014/COCO_train2014_1.png", png(1))


def hard_positives(root: Path) -> None:
    """The files of REPLACE and SWAP, with two records each, in ``data`` and in ``swapped_data``."""
    box = {"bbox_x": 4, "bbox_y": 2, "bbox_w": 40, "bbox_h": 30}
    for name in ("vl_checklist_attributes", "vl_checklist_relations", "visual_genome_attribution"):
        path, more = ("1.png", box) if name.startswith("visual") else ("data/VG_100K/1.png", {})
        for part, text in (("data", "walking cat"), ("swapped_data", "strolling cat")):
            rows = [{"true_caption": text, "false_caption": f"lying cat {n}", "image_path": path} for n in range(2)]
            write(root / f"hard_positives/{part}/{name}.json", [row | more for row in rows])
    write(root / "hard_positives/data/VG_100K/1.png", png(1))
    write(root / "aro/images/1.png", png(1))


def vl_checklist(root: Path) -> None:
    """Three of VL-CheckList's files: two records about objects, four about attributes."""
    text = {"POS": ["a red cat", "one more"], "NEG": ["a black cat", "one more"]}
    for name, image, number in (
        ("Object/Size/swig_size/swig_agent/swig_agent_small", "running_1.png", 2),
        ("Attribute/vaw/color", "VG_100K/1.png", 1),
        ("Attribute/vg/color", "VG_100K/1.png", 3),
    ):
        write(root / f"vl_checklist/data/{name}.json", [[image, text]] * number)
        write(root / "vl_checklist" / ("swig" if "swig" in name else "vg") / image, png(1))


def table(header: str, rows: Iterable[Iterable]) -> bytes:
    """A CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows([header.split(","), *rows])
    return text.getvalue().encode()


def mmvp(root: Path) -> None:
    """Two pairs of MMVP-VLM, the second without a second line."""
    rows = [(1, "Texts", "a red cat"), (2, "Texts", "a blue cat"), (3, "Texts", "a dog")]
    write(root / "mmvp_vlm/Questions.csv", table("Question ID,Type,Statement", rows))
    for n in (1, 2):
        write(root / f"mmvp_vlm/MLLM_VLM Images/Texts/{n}.jpg", png(n))


def svo(root: Path) -> None:
    """Three rows of SVO-Probes, the last with two kinds of negative."""
    header = "sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg"
    kinds = ((True, False, False), (False, True, False), (True, False, True))
    rows = [("a girl sits", "girl,sit,", "boy,sit,", "http://a", "http://b", 1, 2, *kind) for kind in kinds]
    write(root / "svo_probes/svo_probes.csv", table(header, rows))
    for n in (1, 2):
        write(root / f"svo_probes/images/{n}.jpg", png(n))


def crepe(root: Path) -> None:
    """CREPE's files, with two records each; the second has a set of captions, and its image is in the second folder."""
    header, box = "image_id,caption,n,{},x,y,width,height", (4.0, 2.0, 40.0, 30.0)
    files = {
        f"prod_hard_negatives/{k}/prod_vg_hard_negs_{k}_complexity_{n}": ("hard_negs",)
        for k in CREPE_KINDS
        for n in range(4, 13)
    }
    both = ("valid_hard_negs_atom", "valid_hard_negs_comp")
    files |= {f"syst_hard_negatives/syst_vg_hard_negs_{seen}_compounds_in_laion": both for seen in ("seen", "unseen")}
    for name, columns in files.items():
        false = ("a cat on a box", "a cat on a hat", "a cat on a mat")
        cells = ["['{}', '{}', '{}']".format(*false), "{{'{}', '{}', '{}'}}".format(*false)]
        rows = [(n, f"a cat on a sofa {n}", 4, *[cells[n - 1]] * len(columns), *box) for n in (1, 2)]
        write(root / f"crepe/{name}.csv", table(header.format(",".join(columns)), rows))
    for n, folder in enumerate(("VG_100K", "VG_100K_2"), 1):
        write(root / f"visual_genome/{folder}/{n}.jpg", png(n))


CREPE_KINDS = ("atom", "swap", "negate")
CREPE_SYSTEMATICITY = ("crepe_systematicity_atom", "crepe_systematicity_comp")


def spec(root: Path) -> None:
    """SPEC's files, with two records each: their answers are 0 and 2."""
    for part in SPEC_PARTS:
        names, texts = ([f"{kind}{n}{end}" for n in range(3)] for kind, end in (("images/", ".jpg"), (f"{part} ", "")))
        write(root / f"spec/{part}/image2text.json", [{"query": names[n], "keys": texts, "label": n} for n in (0, 2)])
        write(root / f"spec/{part}/text2image.json", [{"query": texts[n], "keys": names, "label": n} for n in (0, 2)])
        for n, name in enumerate(names):
            write(root / f"spec/{part}/{name}", png(n))


def bla(root: Path) -> None:
    """BLA's files, with two records each, the second with two groups of captions."""
    groups = [{name: f"{name} {n}" for name in ("True1", "True2", "False1", "False2")} for n in range(2)]
    rows = [{"image_id": n, "index": n, "caption_group": groups[: n + 1]} for n in range(2)]
    for part in ("active_passive", "coordination", "relative_clause"):
        write(root / f"bla/annotations/{part}_captions.json", rows)
    for n in range(2):
        write(root / f"bla/images/{n}.jpg", png(n))


def coco_counterfactuals(root: Path) -> None:
    """One pair of COCO-Counterfactuals."""
    row = {"id": "9_0", "image_0": "9_0_img_0", "image_1": "9_0_img_1", "caption_0": "a cat", "caption_1": "a dog"}
    write(root / "coco_counterfactuals/data/examples.jsonl", lines([row]))
    with zipfile.ZipFile(root / "coco_counterfactuals/data/images.zip", "w") as archive:
        for n in range(2):
            archive.writestr(f"images/9_0_img_{n}.jpg", png(n))


def sdci(root: Path) -> None:
    """Three photos of sDCI, with two large parts and a small one each; the last has summaries of one part only."""
    corners = (((0, 0), (300, 300)), ((100, 50), (400, 350)), ((0, 0), (223, 300)))
    for n in range(3):
        keys = ["base", "m-0-sc", "m-1-sc", "m-2-sc"][: 4 - 2 * (n == 2)]
        masks = {}
        for k, corner in enumerate(corners):
            bounds = {
                at: dict(zip("xy", xy, strict=True)) for at, xy in zip(("topLeft", "bottomRight"), corner, strict=True)
            }
            masks[str(k)] = {"idx": k, "label": "a thing", "caption": "It is red.", "mask_quality": 0, "bounds": bounds}
        false = {"swaps": ["false 0", "false 1"], "basic": ["false 2"]}
        record = {
            "image": f"sa_{n}.jpg",
            "mask_data": masks,
            "summaries": {key: [f"{n} {key} {k}" for k in range(5 if key == "base" else 2)] for key in keys},
            "negatives": dict.fromkeys(keys, false),
            "clip_scores": {key: {"swaps_0": 0.2, "swaps_1": 0.3, "basic_0": 0.3} for key in keys},
        }
        write(root / f"sdci/complete/{n}.json", record)
        write(root / f"sdci/photos/sa_{n}.jpg", png(n, (420, 360)))
    write(root / "sdci/splits.json", {"train": [], "test": [f"{n}.json" for n in range(3)]})


def dci(root: Path) -> None:
    """Two descriptions of DCI, of which one is in its training split."""
    texts = {"short_caption": "A street. ", "extra_caption": "\n It is wet.\nA car</s> is red.. "}
    for n in range(2):
        write(root / f"sdci/annotations/{n}.json", {"image": f"sa_{n}.jpg", "mask_data": {}, **texts})
        write(root / f"sdci/photos/sa_{n}.jpg", png(n))
    write(root / "sdci/splits.json", {"train": ["0.json"], "valid": [], "test": ["1.json"]})


def docci(root: Path) -> None:
    """Three descriptions of DOCCI, two of its test split."""
    splits = ("test", "train", "test")
    rows = [{"split": s, "image_file": f"{n}.jpg", "description": f"A long one {n}."} for n, s in enumerate(splits)]
    write(root / "docci/docci_descriptions.jsonlines", lines(rows))
    for n in range(3):
        write(root / f"docci/images/{n}.jpg", png(n))


def crossmodal3600(root: Path) -> None:
    """Two photos of Crossmodal-3600, with two captions in each language but one in Quechua."""
    rows = []
    for n in range(2):
        texts = {language: [f"{language} {n} {k}" for k in range(2 - (language == "quz"))] for language in LANGUAGES}
        captions = {language: {"caption": text, "caption/tokenized": text} for language, text in texts.items()}
        rows.append({"image/key": f"{n:016x}", "image/locale": "en", **captions})
        write(root / f"crossmodal3600/images/{n:016x}.jpg", png(n))
    write(root / "crossmodal3600/captions.jsonl", lines(rows))


def zeroshot(root: Path) -> None:
    """A folder of two classes, with prompts."""
    for label in ("cat", "dog"):
        write(root / f"zeroshot/pets/{label}/0.png", png(1))
    write(root / "zeroshot/pets/templates.txt", b"a photo of a {}.\na drawing of a {}.\n")


def clip_benchmark(root: Path) -> None:
    """Two shards of two images as clip_benchmark writes them, the last one with a label that no class has."""
    folder, number = root / "zeroshot/wds_flowers", itertools.count()
    write(folder / "classnames.txt", b"red rose\ntulip\n")
    write(folder / "zeroshot_classification_templates.txt", b"a photo of a {c}.\n{c}\n")
    write(folder / "test/nshards.txt", b"2\n")
    for shard, labels in enumerate((b"10", b"02")):
        with tarfile.open(folder / f"test/{shard}.tar", "w") as tar:
            for label, n in zip(labels, number, strict=False):
                for field, data in (("png", png(n)), ("cls", bytes([label]))):
                    member = tarfile.TarInfo(f"s{n:07d}.{field}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


MAKERS: dict[str, Callable[[Path], object]] = {  # benchmark -> makes its files
    **{"winoground": winoground, "vg_relation": visual_genome, "vg_attribution": visual_genome},
    **{"sugarcrepe": sugarcrepe, "sugarcrepe_pp": sugarcrepe_pp, "whatsup": whatsup, "eqben": eqben, "valse": valse},
    **{"coco_order": karpathy, "coco_retrieval": karpathy, "flickr30k_order": flickr30k},
    **{"flickr30k_retrieval": flickr30k, "vsr": vsr, "zeroshot": zeroshot, "zeroshot_siglip": zeroshot},
    **{"naturalbench_retrieval": naturalbench, "urban1k": urban1k, "sdci": sdci, "dci_retrieval": dci},
    **{"mmvp_vlm": mmvp, "svo_probes": svo, "bla": bla, "coco_counterfactuals": coco_counterfactuals},
    **{"docci_retrieval": docci, "spec_image_to_text": spec, "spec_text_to_image": spec},
    **dict.fromkeys((*(f"crepe_{kind}" for kind in CREPE_KINDS), *CREPE_SYSTEMATICITY), crepe),
    **{f"crossmodal3600_{language}": crossmodal3600 for language in LANGUAGES},
    **{"cola": cola, "imagecode": imagecode, "negrefcocog": negrefcocog, "vl_checklist": vl_checklist},
    **dict.fromkeys(("hard_positives_replace", "hard_positives_swap"), hard_positives),
    **{f"negbench_{kind}": negbench for kind in ("coco", "voc", "synthetic")},
    **{f"negbench_{kind}_retrieval": negbench for kind in ("coco", "coco_negated", "synthetic", "synthetic_negated")},
    **{name: functools.partial(hub_pairs, name=name) for name in HUB_COLUMNS},
}

# Benchmarks whose files are read by the code of another one, which is tried in their place.
SAME_READER = (
    *("flickr30k_order", "flickr30k_retrieval", "colorswap", "vismin", "naturalbench_retrieval", "hard_positives_swap"),
    *("negbench_voc", "negbench_synthetic", "negbench_coco_negated_retrieval"),
    *("negbench_synthetic_retrieval", "negbench_synthetic_negated_retrieval", "zeroshot_siglip"),
    *("mmvp_vlm", "svo_probes"),
    *("crepe_swap", "crepe_negate", *CREPE_SYSTEMATICITY, "spec_text_to_image", "coco_counterfactuals"),
    *("docci_retrieval", *(f"crossmodal3600_{language}" for language in LANGUAGES if language != "en")),
)
