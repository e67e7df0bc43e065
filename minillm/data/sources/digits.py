"""Digits drawn with the fonts that come with matplotlib: shifted, turned, scaled, sheared, blurred and noised.

They need no download. Image i is a function of i alone.
"""

import math
from pathlib import Path

import numpy as np

SIDE, NUM_DIGITS = 28, 6000
_DRAWN = 64
"""Side in pixels at which a digit is drawn before it is transformed."""
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "cmr10", "cmss10", "cmtt10")
"""Beginning of the names of font files with digits."""


def digit_fonts() -> list[Path]:
    """The font files, sorted by name."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for path in folder.glob("*.ttf") if path.name.startswith(FONTS) and "Display" not in path.name)


def draw_digits(number: int = NUM_DIGITS) -> tuple[np.ndarray, list[str]]:
    """(number, 1, 28, 28) uint8, white on black, and their names "0" to "9"."""
    from PIL import Image, ImageFilter

    glyphs = {(font, digit): _glyph(font, digit) for font in digit_fonts() for digit in range(10)}
    fonts, pixels = digit_fonts(), np.zeros((number, 1, SIDE, SIDE), np.uint8)
    for i in range(number):
        rng = np.random.default_rng([i])
        glyph = glyphs[fonts[rng.integers(len(fonts))], i % 10]
        image = glyph.transform((SIDE, SIDE), Image.Transform.AFFINE, _affine(rng), Image.Resampling.BILINEAR)
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
        noise = rng.normal(0, rng.uniform(0, 25), (SIDE, SIDE))
        pixels[i, 0] = np.clip(np.asarray(image, np.float64) * rng.uniform(0.7, 1) + noise, 0, 255).round()
    return pixels, [str(i % 10) for i in range(number)]


def _glyph(font: Path, digit: int) -> "Image.Image":  # type: ignore[name-defined]  # noqa: F821
    """A digit in the middle of a square of _DRAWN pixels, white on black."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (_DRAWN, _DRAWN))
    face = ImageFont.truetype(str(font), round(_DRAWN * 0.85))
    ImageDraw.Draw(image).text((_DRAWN / 2, _DRAWN / 2), str(digit), fill=255, font=face, anchor="mm")
    box = image.getbbox() or (0, 0, _DRAWN, _DRAWN)
    centered = Image.new("L", (_DRAWN, _DRAWN))
    part = image.crop(box)
    centered.paste(part, ((_DRAWN - part.width) // 2, (_DRAWN - part.height) // 2))
    return centered


def _affine(rng: np.random.Generator) -> tuple[float, ...]:
    """The map from a pixel of the result to one of the glyph: the inverse of turn, shear, scale and shift."""
    turn, shear = math.radians(rng.uniform(-20, 20)), rng.uniform(-0.25, 0.25)
    scale = _DRAWN / SIDE / rng.uniform(0.85, 1.3)
    a, b = scale * math.cos(turn), scale * (math.sin(turn) + shear)
    c, d = -scale * math.sin(turn), scale * math.cos(turn)
    x, y = rng.uniform(-3, 3, 2) + SIDE / 2
    return a, b, _DRAWN / 2 - a * x - b * y, c, d, _DRAWN / 2 - c * x - d * y
