"""Marks of origin: what a picture's file says of how it was made, as XMP and, if asked for, with its settings.

The same mark of the same pixels is the same bytes. Nothing here changes a pixel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from wanbatch.manifests.adapter_words import hashes, prompt_tags
from wanbatch.manifests.dataset.image_formats import Metadata
from wanbatch.manifests.digital_source import VOCABULARY

MAX_TEXT = 4096
"""Characters of a prompt that stand in a file; a JPEG has room for 64 KiB of XMP."""

NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "wanbatch": "urn:wanbatch:marks:1#",
}

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# The names that A1111's `parameters` text has for settings; what is not here keeps its own.
_A1111 = {
    "steps": "Steps",
    "sampler": "Sampler",
    "schedule": "Schedule type",
    "guidance": "CFG scale",
    "guidance_2": "CFG scale 2",
    "seed": "Seed",
    "creativity": "Denoising strength",
    "shift": "Shift",
    "sigmas": "Sigmas",
    "model": "Model",
    "revision": "Model revision",
}


@dataclass(frozen=True, slots=True)
class OriginMark:
    """What is said of one picture.

    Attributes:
        term: how it came to be, of `digital_source`.
        tool: name and version of the program.
        settings: what it was made with, by column, `model` and `revision` too, and `adapters` where there are some;
            None: its file does not say.
    """

    term: str
    tool: str
    settings: Mapping[str, Any] | None = None

    def metadata(self, pixels_sha256: str) -> Metadata:
        """What goes into the file. pixels_sha256: of the pixels as they were made, hex."""
        said = self.settings
        return Metadata(xmp=self._xmp(pixels_sha256), parameters=None if said is None else self._parameters(said))

    def _xmp(self, pixels_sha256: str) -> bytes:
        values = {
            "Iptc4xmpExt:DigitalSourceType": VOCABULARY + self.term,
            "xmp:CreatorTool": self.tool,
            "wanbatch:PixelsSHA256": pixels_sha256,
        }
        if (said := self.settings) is not None:
            values |= {
                "Iptc4xmpExt:AISystemUsed": str(said.get("model")),
                "Iptc4xmpExt:AIPromptInformation": cut(said.get("prompt") or ""),
                "wanbatch:NegativePrompt": cut(said.get("negative_prompt") or ""),
                "wanbatch:Settings": json.dumps(_others(said), ensure_ascii=False),
            }
        return packet(values)

    def _parameters(self, said: Mapping[str, Any]) -> str:
        """The text that A1111 and those who read its pictures understand: prompts, then a line of settings."""
        adapters = said.get("adapters") or ()
        lines = [" ".join(text for text in (cut(said.get("prompt") or ""), prompt_tags(adapters)) if text)]
        if negative := said.get("negative_prompt"):
            lines.append(f"Negative prompt: {cut(negative)}")
        told = ("adapters", "style", "loras") if adapters else ()  # by the tags
        others = {name: value for name, value in _others(said).items() if value is not None and name not in told}
        size = f"{others.pop('width')}x{others.pop('height')}"
        named = {label: others.pop(name) for name, label in _A1111.items() if name in others}
        line = {**named, "Size": size, **others, "Version": self.tool}
        values = [f"{label}: {_quoted(value)}" for label, value in line.items()]
        lines.append(", ".join([*values, *([f"Hashes: {hashes(adapters)}"] if adapters else [])]))
        return "\n".join(lines)


def cut(text: str) -> str:
    """A prompt as it stands in a file."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def packet(values: Mapping[str, str]) -> bytes:
    """An XMP packet. values: by qualified name, of `NAMESPACES`."""
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
    properties = "".join(f"\n   <{name}>{_xml(value)}</{name}>" for name, value in values.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'  <rdf:Description rdf:about="" {spaces}>{properties}\n'
        "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="w"?>'
    ).encode()


def _others(said: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are no text to read; numbers as short as they are told apart by people."""
    texts = ("prompt", "negative_prompt")
    return {name: _short(value) for name, value in said.items() if name not in texts}


def _short(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_short(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _short(one) for name, one in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text), {"\r": "&#13;"})
