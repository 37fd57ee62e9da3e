"""Terms of the IPTC for how a picture came to be (its "digital source type"), and which of them fits a picture.

The vocabulary is at http://cv.iptc.org/newscodes/digitalsourcetype. Photo software, C2PA and search engines know it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

GENERATED = "trainedAlgorithmicMedia"
"""A model made all of it."""

COMPOSITE = "compositeWithTrainedAlgorithmicMedia"
"""A model made it out of other pictures."""

ALTERED = "algorithmicallyEnhanced"
"""The picture that it was before, with small changes by an algorithm."""

SYNTHETIC = frozenset({GENERATED, COMPOSITE, "compositeSynthetic"})
"""Terms of pictures that a generative model has part in."""

MEANINGS = {
    GENERATED: "made by a model",
    COMPOSITE: "made by a model out of other pictures",
    ALTERED: "another picture, reconstructed without generating anything",
}

_TERM = re.compile(rb"newscodes/digitalsourcetype/([A-Za-z]+)")


def term_in_file(data: bytes) -> str | None:
    """The term that an encoded picture says of itself, in XMP or C2PA; None: it says none, or only compressed.

    One of `SYNTHETIC` goes before others, as a file may have the marks of several steps.

    Args:
        data: the whole file, of any format.
    """
    found = [term.decode() for term in _TERM.findall(data)]
    return next((term for term in found if term in SYNTHETIC), found[0] if found else None)


def term_of(creativity: float, sources: Sequence[str | None]) -> str:
    """The term of a picture that a run makes.

    Without a source, and at creativity 1, which uses none, a model made all of it. At creativity 0 one source is
    encoded and decoded, and neither noise nor prompt plays a part: it is the picture that it was, reconstructed, and
    what was synthetic stays so. All else is made by a model out of its sources.

    Args:
        creativity: the noise level at which denoising started.
        sources: what each source says of itself; see `term_in_file`.
    """
    if not sources or creativity >= 1:
        return GENERATED
    if creativity == 0 and len(sources) == 1:
        (term,) = sources
        return term if term in SYNTHETIC else ALTERED
    return COMPOSITE
