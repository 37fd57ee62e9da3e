"""What there is to say of a picture of the small world: six attributes, each with a few names.

A picture's attributes are an int64 tensor `[6]`, in the order of `FIELDS`, each an index into `NAMES[field]`.
"""

from __future__ import annotations

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
SIZES = ("small", "medium", "large")
PLACES = ("center", "left", "right", "top", "bottom")
TEXTURES = ("plain", "striped", "dotted", "checkered")

FIELDS = ("shape", "colour", "size", "place", "background", "texture")
NAMES = dict(zip(FIELDS, (SHAPES, COLOURS, SIZES, PLACES, COLOURS, TEXTURES), strict=True))
