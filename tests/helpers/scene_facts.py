"""What a drawn scene shows, judged apart from the code that draws and describes it."""

from tfds_naturel.scenes.scene import Scene


def holds(fact: tuple[str, ...], scene: Scene) -> bool:
    """Whether a scene shows a fact, judged by its things, their attributes and boxes, and its triplet."""
    things = {thing.label: thing for thing in scene.things}
    kind, first, *rest = fact
    if kind in ("here", "gone"):
        return (first in things) == (kind == "here")
    if kind == "is":
        return first in things and things[first].attribute == rest[0]
    if not {first, rest[0]} <= things.keys():
        return False
    if kind in ("left_of", "right_of"):
        here, there = ((things[label].box[0] + things[label].box[2]) / 2 for label in (first, rest[0]))
        return abs(here - there) > 0.08 and (here < there) == (kind == "left_of")
    shown = scene.triplet
    converse = {"on": "under", "under": "on"}.get(shown.relation)
    return (first, kind, rest[0]) in {shown, (shown.object, converse, shown.subject)}
