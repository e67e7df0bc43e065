"""Reads labeled images: IDX files (LeCun et al. 1998), folders of image files named by class, and drawn digits."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.data.sources import BUILTIN
from minillm.data.sources.digits import draw_digits

DIGITS = f"{BUILTIN}digits"
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
IDX = re.compile(r"^(?P<set>.+)-images[.-]idx3-ubyte(\.gz)?$")
HELD_OUT = re.compile(r"^(t10k|test)\b")
"""Beginning of the names of files that are for evaluation, as in MNIST."""
_TYPES = {0x08: np.dtype("u1")}


class Images(NamedTuple):
    """Labeled images of one size."""

    pixels: np.ndarray
    """(N, C, height, width) uint8."""
    labels: list[str]
    where: list[str]
    """Names each image in error messages."""
    held_out: np.ndarray
    """(N) bool: whether the source marks the image as one for evaluation."""


def read_labeled_images(source: str) -> Images:
    """All images of a source, in a fixed order.

    Args:
        source: folder with IDX files, one IDX file of images, folder whose subfolders are named after the classes of
            the image files in them, or builtin:digits.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: a file is damaged, has no labels, or has another size than the first one.
    """
    if source == DIGITS:
        pixels, labels = draw_digits()
        where = [f"{source} image {i + 1}" for i in range(len(labels))]
        return Images(pixels, labels, where, np.zeros(len(labels), bool))
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {source} (in {Path.cwd()}): give images, or {DIGITS}")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    sets = [file for file in files if IDX.match(file.name)]
    if sets:
        return join([_read_idx_set(file) for file in sets])
    if path.is_dir():
        return _read_folders(path)
    raise ValueError(
        f"{path} is not a set of labeled images: give a folder with IDX files such as train-images-idx3-ubyte.gz and "
        f"train-labels-idx1-ubyte.gz, a folder with one subfolder of image files for each class, or {DIGITS}"
    )


def join(parts: list[Images]) -> Images:
    """Several sets as one; ValueError if their images differ in size."""
    for part in parts[1:]:
        if part.pixels.shape[1:] != parts[0].pixels.shape[1:]:
            raise ValueError(
                f"{part.where[0]} has the shape {part.pixels.shape[1:]} and {parts[0].where[0]} the shape "
                f"{parts[0].pixels.shape[1:]}: all images must have the same size"
            )
    pixels, held_out = (np.concatenate([getattr(part, name) for part in parts]) for name in ("pixels", "held_out"))
    labels, where = ([x for part in parts for x in getattr(part, name)] for name in ("labels", "where"))
    return Images(pixels, labels, where, held_out)


def _read_idx_set(file: Path) -> Images:
    """The images of an IDX file with their labels, which are in a file beside it."""
    names = [file.name.replace("-images", "-labels").replace("idx3", "idx1")]
    names.append(names[0].removesuffix(".gz") if names[0].endswith(".gz") else f"{names[0]}.gz")
    labels = next((file.parent / name for name in names if (file.parent / name).is_file()), None)
    if labels is None:
        raise ValueError(f"{file} has no labels: put {names[0]} beside it")
    pixels, numbers = read_idx(file), read_idx(labels)
    if pixels.ndim != 3 or numbers.ndim != 1 or len(pixels) != len(numbers):
        raise ValueError(
            f"{file} has the shape {pixels.shape} and {labels.name} the shape {numbers.shape}: expected (N, height, "
            "width) and (N); take both files from the same data set"
        )
    where = [f"{file} image {i + 1}" for i in range(len(pixels))]
    held_out = np.full(len(pixels), HELD_OUT.match(file.name) is not None)
    return Images(pixels[:, None], [str(number) for number in numbers], where, held_out)


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, gzip-compressed or not; ValueError if it is damaged or not of unsigned bytes."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}): download it again") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: its first four bytes are {data[:4].hex()}")
    dims = data[3]
    shape = tuple(np.frombuffer(data[4 : 4 + 4 * dims], ">u4").tolist())
    body = data[4 + 4 * dims :]
    if len(shape) != dims or len(body) != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} is damaged: its header gives the shape {shape}, but it has {len(body):,} bytes")
    return np.frombuffer(body, _TYPES[data[2]]).reshape(shape)


def _read_folders(folder: Path) -> Images:
    """Image files whose class is the name of their folder."""
    files = [file for file in sorted(folder.glob("*/*")) if file.suffix.lower() in ENDINGS]
    if not files:
        raise ValueError(
            f"{folder} has no labeled images: it needs IDX files such as train-images-idx3-ubyte.gz, or one subfolder "
            f"for each class with files in {', '.join(sorted(ENDINGS))}"
        )
    arrays = dict(_opened(files))
    color = any(array.ndim == 3 for array in arrays.values())
    stacked = {
        file: np.stack([array] * 3, -1) if color and array.ndim == 2 else array for file, array in arrays.items()
    }
    first = files[0]
    for file, array in stacked.items():
        if array.shape != stacked[first].shape:
            raise ValueError(
                f"{file} has {array.shape[1]} x {array.shape[0]} pixels and {first} has {arrays[first].shape[1]} x "
                f"{arrays[first].shape[0]}: scale all images to the same size"
            )
    pixels = np.stack(list(stacked.values()))
    pixels = pixels.transpose(0, 3, 1, 2) if color else pixels[:, None]
    labels = [file.parent.name for file in files]
    return Images(np.ascontiguousarray(pixels), labels, list(map(str, files)), np.zeros(len(files), bool))


def _opened(files: list[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    for file in files:
        yield file, open_image(file)


def open_image(path: Path, size: tuple[int, int] | None = None, *, color: bool | None = None) -> np.ndarray:
    """The pixels of an image file, (height, width) or, in color, (height, width, 3) uint8; alpha is over white.

    Args:
        path: any format that Pillow reads.
        size: height and width to scale to; None: its own.
        color: whether to return color; None: as the file has it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA") if opened.has_transparency_data else opened
            if image.mode == "RGBA":
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            gray = image.mode in ("1", "L", "I", "I;16", "F") if color is None else not color
            image = image.convert("L" if gray else "RGB")
            if size is not None and image.size != size[::-1]:
                image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
            return np.asarray(image)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not an image that can be read ({error}): give a PNG or JPEG file") from None
