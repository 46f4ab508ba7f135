"""A drawn world of two or more objects in a relation, whose images, boxes and captions follow from a scene graph."""
