"""What there is to say of a picture of the small world: nine attributes, each with a few names.

A picture's attributes are an int64 tensor `[9]`, in the order of `FIELDS`, each an index into `NAMES[field]`. Objects
are counted from the left (or from the top, where they stand over one another); what is not there is `none`.
"""

from __future__ import annotations

NONE = "none"

NOUNS = (
    "dog", "cat", "mouse", "rabbit", "fox", "bear", "panda", "tiger", "lion", "cow", "pig", "frog", "monkey",
    "chicken", "penguin", "bird", "owl", "duck", "swan", "flamingo", "parrot", "turtle", "snake", "snail",
    "butterfly", "ladybug", "bee", "fish", "dolphin", "whale", "octopus", "crab", "shark", "elephant", "zebra",
    "horse", "sheep", "camel", "hedgehog", "dinosaur",
    "apple", "banana", "orange", "lemon", "watermelon", "grapes", "strawberry", "cherries", "pineapple", "carrot",
    "corn", "mushroom", "bread", "cheese", "pizza", "hamburger", "donut", "cake", "lollipop", "ice cream", "coffee",
    "cactus", "tree", "sunflower", "tulip", "rose", "clover",
    "car", "bus", "airplane", "rocket", "sailboat", "train", "tractor", "helicopter",
    "house", "castle", "tent", "umbrella", "balloon", "soccer ball", "guitar", "drum", "bell", "clock", "books",
    "camera", "crown", "hat", "robot", "ghost", "pumpkin", "snowman", "star", "diamond", "heart",
)  # fmt: skip
ALONE = ("center", "left", "right", "top", "bottom")
LAYOUTS = (*ALONE, "side by side", "stacked", "row")
"""Where one object is; how two stand to each other; three are in a row."""

SIZES = ("small", "medium", "large")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "gray", "black")
SCENES = ("meadow", "beach", "snow", "desert", "night")
TEXTURES = ("plain", "striped", "dotted", "checkered")
STYLES = ("emoji", "flat")

FIELDS = ("first", "second", "third", "layout", "size", "second_size", "background", "texture", "style")
NAMES: dict[str, tuple[str, ...]] = {
    "first": NOUNS,
    "second": (*NOUNS, NONE),
    "third": (*NOUNS, NONE),
    "layout": LAYOUTS,
    "size": SIZES,
    "second_size": (*SIZES, NONE),
    "background": (*COLOURS, *SCENES),
    "texture": TEXTURES,
    "style": STYLES,
}
