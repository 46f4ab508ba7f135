"""A drawn world: images of two or more objects in a relation, with boxes and captions derived from a scene graph."""
