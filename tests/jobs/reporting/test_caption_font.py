"""Captions on sheets: a font of the machine where there is one, and none is needed."""

from __future__ import annotations

from PIL import ImageFont

from wanbatch.jobs.reporting import caption_font as fonts


def test_a_machine_without_fonts_has_captions_all_the_same(monkeypatch):
    monkeypatch.setattr(fonts, "FONTS", ("no such font.ttf",))
    fonts.caption_font.cache_clear()
    found = fonts.caption_font(12)
    assert isinstance(found, ImageFont.FreeTypeFont | ImageFont.ImageFont)
    assert found.getlength("a caption") > 20
    fonts.caption_font.cache_clear()
