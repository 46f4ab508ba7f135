"""A drawn world of two or more objects in a relation, whose pictures, boxes and captions follow from a scene graph."""
