"""Labeled images: IDX files, folders of image files, drawn digits; and how they are split."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minillm.data.config import DataConfig
from minillm.data.datasets.images import prepare_images
from minillm.data.sources.digits import digit_fonts, draw_digits
from minillm.data.sources.images import DIGITS, open_image, read_idx, read_labeled_images

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 5), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(folder: Path) -> Path:
    """Eight images to train on, compressed, and four for evaluation, not compressed."""
    folder.mkdir()
    for name, part in (("train", slice(8)), ("t10k", slice(8, 12))):
        for kind, array in (("images-idx3", PIXELS), ("labels-idx1", LABELS)):
            path = folder / f"{name}-{kind}-ubyte"
            path.write_bytes(idx(array[part]))
            if name == "train":
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
    return folder


def test_idx_files_are_read_and_those_named_t10k_are_the_validation_data(tmp_path: Path):
    corpus = prepare_images(DataConfig(source=str(write_mnist(tmp_path / "m"))), None)
    assert np.array_equal(corpus.train.features[:, 0], PIXELS[:8])
    assert np.array_equal(corpus.validation.features[:, 0], PIXELS[8:])
    assert corpus.validation.labels == ["2", "0", "1", "2"]
    assert "8 images of 5 x 4 pixels to train on, 4 to validate on" in corpus.info.describe()
    with pytest.raises(ValueError, match="the source has its own test files"):
        prepare_images(DataConfig(source=str(tmp_path / "m"), validation_fraction=0.5), None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "header gives the shape"),
        (lambda data: b"PNG" + data, "not an IDX file"),
        (lambda data: data[:2] + b"\x0d" + data[3:], "not an IDX file of unsigned bytes"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage, message: str):
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(damage(idx(PIXELS)))
    with pytest.raises(ValueError, match=rf"t10k-images-idx3-ubyte is .*{message}"):
        read_idx(path)


def test_images_without_labels_are_refused(tmp_path: Path):
    (write_mnist(tmp_path / "m") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte has no labels: put t10k-labels-idx1-ubyte beside it"):
        read_labeled_images(str(tmp_path / "m"))


def test_a_folder_of_folders_names_the_classes(tmp_path: Path):
    for i in range(6):
        (tmp_path / ("cat" if i % 2 else "dog")).mkdir(exist_ok=True)
        Image.fromarray(PIXELS[i]).save(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png")
    found = read_labeled_images(str(tmp_path))
    assert found.labels == ["cat"] * 3 + ["dog"] * 3
    assert np.array_equal(found.pixels[:, 0], PIXELS[[1, 3, 5, 0, 2, 4]])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "dog" / "9.png")
    with pytest.raises(ValueError, match=r"9\.png has 9 x 9 pixels and .*1\.png has 5 x 4: scale all images"):
        read_labeled_images(str(tmp_path))


def test_one_color_image_makes_all_of_them_color(tmp_path: Path):
    (tmp_path / "a").mkdir()
    Image.fromarray(PIXELS[0]).save(tmp_path / "a" / "gray.png")
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "a" / "color.png")
    found = read_labeled_images(str(tmp_path)).pixels
    assert found.shape == (2, 3, 4, 5)
    assert found[0, :, 0, 0].tolist() == [1, 2, 3] and np.array_equal(found[1, 2], PIXELS[0])


def test_an_image_is_scaled_and_what_is_transparent_is_white(tmp_path: Path):
    Image.new("LA", (10, 6), (0, 0)).save(tmp_path / "clear.png")
    assert (open_image(tmp_path / "clear.png", (3, 5), color=False) == np.full((3, 5), 255)).all()
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.png is not an image"):
        open_image(tmp_path / "text.png")


def test_drawn_digits_are_the_same_each_time_and_need_no_download():
    pixels, labels = draw_digits(30)
    assert np.array_equal(pixels, draw_digits(40)[0][:30]) and labels[:12] == [*"012345678901"]
    assert len(digit_fonts()) >= 10
    ink = (pixels > 80).mean((1, 2, 3))
    assert ink.min() > 0.02 and ink.max() < 0.5, "each shows a light figure on a dark ground"
    assert read_labeled_images(DIGITS).pixels.shape == (6000, 1, 28, 28)


def test_duplicates_stay_in_one_split(tmp_path: Path):
    for i in range(30):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(PIXELS[i % 5]).save(tmp_path / "a" / f"{i}.png")
    corpus = prepare_images(DataConfig(source=str(tmp_path), validation_fraction=0.2), None)
    assert len(corpus.validation) == 6
    assert not set(corpus.train.hashes().tolist()) & set(corpus.validation.hashes().tolist())
