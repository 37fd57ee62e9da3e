"""Manifest rows that several tests of `wanbatch.jobs` run."""

MIXED = [
    {"id": "plain", "prompt": "a red heart", "note": "first", "price": 1.5},
    {"prompt": "a blue star on a striped background", "seed": 77, "price": 2},
    {"id": "wide-one", "prompt": "a green circle", "width": 96, "height": 32, "guidance": 1.0, "steps": 3},
    {"id": "i2i-keep", "prompt": "a star", "image": "square.png", "creativity": 0.0},
    {"id": "i2i-some", "prompt": "a star", "image": "square.png", "creativity": 0.35, "seed": 5, "steps": 8},
    {"id": "i2i-most", "prompt": "a star", "image": "square.png", "creativity": 0.9, "sampler": "euler"},
    {"id": "i2i-default", "prompt": "a star", "image": "wide.png", "steps": 5},
    {"id": "turned", "image": "turned.jpg", "negative_prompt": "dotted", "sigmas": [1, 0.5, 0.2], "sampler": "heun"},
    {"id": "several", "prompt": "a square", "num_images": 3, "seed": 2**63 - 2},
    {"id": "two", "images": ["square.png", "tall.jpg"], "blend_weights": [3, 1], "width": 64, "height": 64},
    {"blend_group": "group", "image": "wide.png", "blend_weight": 1, "prompt": "a heart", "note": "of the group"},
    {"blend_group": "group", "image": "square.png", "blend_weight": 2, "width": 64, "height": 32},
    {"blend_group": "group", "image": "tall.jpg", "creativity": 0.5, "steps": 5},
    {
        "id": "shifted",
        "prompt": "a heart",
        "shift": 1.0,
        "guidance": 2.5,
        "num_images": 2,
        "sampler": "lcm",
        "schedule": "beta",
    },
]
MIXED_IDS = [
    *["plain", "00000001", "wide-one", "i2i-keep", "i2i-some", "i2i-most", "i2i-default", "turned"],
    *["several-0", "several-1", "several-2", "two", "group", "shifted-0", "shifted-1"],
]

FAULTY = [
    {"id": "good-0", "prompt": "a red heart"},
    {"id": "absent", "prompt": "a heart", "image": "nowhere.png"},
    {"id": "cut", "prompt": "a heart", "image": "truncated.png"},
    {"id": "html", "prompt": "a heart", "image": "page.png"},
    {"id": "blend-absent", "images": ["square.png", "nowhere.png"]},
    {"id": "raise-1", "prompt": "a star"},
    {"id": "good-1", "prompt": "a star", "image": "square.png"},
    {"id": "late-1", "prompt": "a circle"},
    {"id": "endless", "prompt": "a circle", "guidance": 1e38, "steps": 4},
    {"id": "good-2", "prompt": "a circle"},
]
