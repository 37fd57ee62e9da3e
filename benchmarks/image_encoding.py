"""What encoding a picture costs and saves: time, size, what several threads give, in each format and setting.

    python benchmarks/image_encoding.py benchmarks/results/NAME.json [--threads 2] [--repeats 3]

Pictures are synthetic: smooth shading, edges, texture and sensor-like noise in the proportions of a photograph
(1280x704), and flat shapes (128x128).
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, features

from wanbatch.jobs.config.hardware import cpu_name
from wanbatch.pipeline.evaluation.metrics import psnr_of_error

SETTINGS: dict[str, dict[str, Any]] = {
    **{f"png level {level}": {"format": "PNG", "compress_level": level} for level in (0, 1, 2, 3, 4, 6, 9)},
    **{
        f"png level {level}, {name}": {"format": "PNG", "compress_level": level, "compress_type": kind}
        for level in (1, 3)
        for name, kind in (("filtered", 1), ("huffman only", 2), ("run lengths", 3))
    },
    **{
        f"webp lossless method {method}": {"format": "WEBP", "lossless": True, "quality": 50, "method": method}
        for method in (0, 4)
    },
    "webp lossless method 0, effort 0": {"format": "WEBP", "lossless": True, "quality": 0, "method": 0},
    **{
        f"webp quality {q} method {method}": {"format": "WEBP", "quality": q, "method": method}
        for q in (80, 95)
        for method in (0, 2, 4)
    },
    **{f"jpeg quality {q}, 4:4:4": {"format": "JPEG", "quality": q, "subsampling": 0} for q in (90, 95)},
    "jpeg quality 95, 4:2:0": {"format": "JPEG", "quality": 95, "subsampling": 2},
    "jpeg quality 95, 4:4:4, optimize": {"format": "JPEG", "quality": 95, "subsampling": 0, "optimize": True},
}


def natural(seed: int, width: int = 1280, height: int = 704) -> np.ndarray:
    """A picture with the 1/f spectrum of photographs, some hard edges, and a little noise."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def field(slope: float, spread: float, count: int) -> np.ndarray:
        shape = (count, height, width // 2 + 1)
        spectrum = (random.normal(size=shape) + 1j * random.normal(size=shape)) / frequency**slope
        values = np.fft.irfft2(spectrum, s=(height, width))
        return values * (spread / values.std())

    shading = 120 + field(1.4, 48, 1) + field(1.8, 14, 3)  # brightness, and colour that changes more slowly
    image = Image.fromarray(shading.transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.integers(0, width), random.integers(0, height)
        w, h = random.integers(20, 300, 2)
        draw.ellipse((x, y, x + w, y + h), fill=tuple(int(c) for c in random.integers(0, 255, 3)))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7))).astype(float)
    return (soft + random.normal(0, 1.0, soft.shape)).round().clip(0, 255).astype(np.uint8)


def flat(seed: int, size: int = 128) -> np.ndarray:
    """Shapes on a striped background, slightly uneven as the small model makes them."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(c) for c in random.integers(0, 255, 3)))
    draw = ImageDraw.Draw(image)
    for x in range(0, size, 16):
        draw.rectangle((x, 0, x + 6, size), fill=tuple(int(c) for c in random.integers(60, 200, 3)))
    draw.ellipse((30, 30, 95, 95), fill=(220, 30, 30))
    return (np.asarray(image) + random.normal(0, 0.6, (size, size, 3))).round().clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def measure(pictures: list[np.ndarray], options: dict[str, Any], threads: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a processor and bytes a picture, what several threads give, the error of lossy ones."""
    files = [encode(pixels, options) for pixels in pictures]
    busy, single, several = [], [], []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            begin, worked = time.perf_counter(), time.thread_time()
            for pixels in pictures:
                encode(pixels, options)
            busy.append((time.thread_time() - worked) / len(pictures))
            single.append((time.perf_counter() - begin) / len(pictures))
            begin = time.perf_counter()
            list(pool.map(lambda pixels: encode(pixels, options), pictures * threads))
            several.append((time.perf_counter() - begin) / len(pictures) / threads)
    decoded = [np.asarray(Image.open(io.BytesIO(file))).astype(float) for file in files]
    error = float(np.mean([((a - b) ** 2).mean() for a, b in zip(decoded, pictures, strict=True)]))
    raw = sum(pixels.nbytes for pixels in pictures)
    return {
        "cpu_ms": round(min(busy) * 1000, 2),
        "kilobytes": round(sum(map(len, files)) / len(files) / 1000, 1),
        "share_of_raw": round(sum(map(len, files)) / raw, 4),
        f"speedup_of_{threads}_threads": round(min(single) / min(several), 2),
        **({"psnr": round(psnr_of_error(error, 255), 2)} if error else {"lossless": True}),
    }


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(target: Path, threads: int, repeats: int) -> None:
    kinds = {
        "natural 1280x704": [natural(seed) for seed in range(3)],
        "flat 128x128": [flat(seed) for seed in range(24)],
    }
    results: dict[str, dict[str, Any]] = {}
    for kind, pictures in kinds.items():
        results[kind] = {}
        for name, options in SETTINGS.items():
            results[kind][name] = measure(pictures, options, threads, repeats)
            print(f"{kind:<18} {name:<34} {results[kind][name]}", flush=True)
    result = {
        "what": "encoding pictures with Pillow",
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {"processor": cpu_name(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "pillow": version("pillow"),
            **{name: features.version(name) for name in ("zlib", "jpg", "webp")},
            "zlib_ng": features.check("zlib_ng"),
        },
        "settings": {"threads": threads, "repeats": repeats},
        "results": results,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
