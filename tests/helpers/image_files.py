"""Synthetic images for tests."""

import io
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The content of ``image``'s file in the format ``form``, with Pillow's ``options`` of this format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(width: int, height: int, seed: int = 0, quality: int = 92, form: str = "JPEG") -> bytes:
    """An encoded image with the spectrum of a photograph: amplitude falls as 1 / frequency, with a lens blur of 0.7
    pixels."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.maximum(np.hypot(fy, fx), 1 / max(width, height))
    falloff = np.exp(-2 * (np.pi * 0.7 * frequency) ** 2) / frequency
    noise = np.fft.fft2(rng.standard_normal((3, height, width)))
    layers = np.fft.ifft2(noise * falloff).real
    shared = 0.8 * layers[:1] + 0.2 * layers  # the color channels of photographs are correlated
    pixels = 128 + 55 * (shared - shared.mean()) / shared.std()
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)), form, quality=quality)
