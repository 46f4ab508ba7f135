"""The review as tasks of Label Studio (labelstud.io/guide/task_format): one for each pair and its first photo, with the
boxes as pre-annotations. ``captions.decisions`` reads what it exports."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tfds_naturel.audit.form import Screen
from tfds_naturel.audit.review import ASK, Shown
from tfds_naturel.captions.decisions import VERDICTS
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images.annotations import Box

_BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="  # where there is no photo


def config() -> str:
    """The labeling interface, to be pasted into the project's settings."""
    boxes = "".join(f'<Label value="{role}"/>' for role in ("subject", "object"))
    questions = [
        f"""  <Header value="{html.escape(ask)}"/>
  <Text name="{polarity}_text" value="${polarity}"/>
  <Choices name="{polarity}" toName="{polarity}_text" choice="single" showInline="true">
    {"".join(f'<Choice value="{verdict}"/>' for verdict in VERDICTS)}
  </Choices>
  <TextArea name="{polarity}_reason" toName="{polarity}_text" placeholder="Why? (optional)" maxSubmissions="1"/>
"""
        for polarity, ask in ASK.items()
    ]
    return f"""<View>
  <Header value="$triplet"/>
  <Image name="photo" value="$image"/>
  <RectangleLabels name="box" toName="photo">{boxes}</RectangleLabels>
{"".join(questions)}</View>
"""


def tasks(screens: Sequence[Screen], shown: Mapping[Triplet, Sequence[Shown]]) -> list[dict[str, Any]]:
    """The tasks, as JSON; photos are data URIs."""
    return [_task(screen, next(iter(shown.get(Triplet.parse(screen.title), ())), None)) for screen in screens]


def _task(screen: Screen, photo: Shown | None) -> dict[str, Any]:
    first = screen.questions[0].row
    data = {"triplet": screen.title, "image": photo.address if photo else _BLANK}
    data |= {name: first[name] for name in ("pair", "paraphrase")}
    data |= {question.kind: question.texts[0] for question in screen.questions}
    boxes = [(role, box) for role in ("subject", "object") if photo and (box := getattr(photo, role))]
    results = [_box(role, box) for role, box in boxes]
    return {"data": data, "predictions": [{"model_version": "annotation", "result": results}] if results else []}


def _box(role: str, box: Box) -> dict[str, Any]:
    """A rectangle in percent of the image."""
    value = {"x": box.xmin, "y": box.ymin, "width": box.xmax - box.xmin, "height": box.ymax - box.ymin}
    percent: dict[str, Any] = {name: 100 * number for name, number in value.items()}
    kind = {"type": "rectanglelabels", "from_name": "box", "to_name": "photo"}
    return {"id": role, **kind, "value": percent | {"rotation": 0, "rectanglelabels": [role]}}
