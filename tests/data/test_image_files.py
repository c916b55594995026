"""Slices and masks however a file stores them; the sources of the cases are in docs/cases.md."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fp4jax.data import image_files

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
MASK = np.zeros((8, 8), np.uint8)
MASK[2:4, 2:4] = 1
OPAQUE = np.full((8, 8, 1), 255, np.uint8)


def png(path, *channels):
    Image.fromarray(np.dstack(channels).squeeze()).save(path)
    return path


def palette(path, colours):
    image = Image.fromarray(MASK, mode="P")
    image.putpalette(colours)
    image.save(path)
    return path


def deep_png(path, data):
    """16 bits of each channel, which Pillow does not write."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, _ = data.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in data)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))
    return path


def test_channels_that_say_nothing(tmp_path):
    """Opaque alpha of colours and of grey, grey as colours."""
    colours = np.dstack([GREY, GREY + 1, GREY + 2])
    found = image_files.read_image(png(tmp_path / "rgba.png", colours, OPAQUE), 3)
    np.testing.assert_array_equal(found, colours)
    for channels in ([GREY, OPAQUE], [GREY] * 3, [*[GREY] * 3, OPAQUE]):
        found = image_files.read_image(png(tmp_path / "grey.png", *channels), 1)
        np.testing.assert_array_equal(found[..., 0], GREY)
    # Four channels that are wanted are four channels.
    assert image_files.read_image(tmp_path / "rgba.png", 4).shape == (8, 8, 4)
    for path, channels, says in (
        (png(tmp_path / "seen_through.png", colours, GREY), 3, "transparent in places"),
        (png(tmp_path / "colours.png", colours), 1, r"is uint8 \(8, 8, 3\), but the model"),
        (png(tmp_path / "one.png", GREY), 3, r"is uint8 \(8, 8\), but the model"),
    ):
        with pytest.raises(ValueError, match=rf"{path.name}: .*{says}"):
            image_files.read_image(path, channels)


def test_more_than_8_bits_are_refused(tmp_path):
    """Colours of 12 bits in a PNG file of 16 would be read as nearly black."""
    deep_png(tmp_path / "colours.png", np.full((8, 8, 3), 4000, np.uint16))
    Image.fromarray(GREY.astype(np.uint16) * 100).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "grey.tif", GREY.astype(np.uint16) * 100)
    for name, channels in (("colours.png", 3), ("grey.png", 1), ("grey.tif", 1)):
        with pytest.raises(ValueError, match=r"16.* rescaled to 0 to 255"):
            image_files.read_image(tmp_path / name, channels)


def test_ways_of_tiff(tmp_path):
    """White as 0, a plane for each colour, a palette."""
    tifffile.imwrite(tmp_path / "white.tif", 255 - GREY, photometric="miniswhite")
    np.testing.assert_array_equal(
        image_files.read_image(tmp_path / "white.tif", 1)[..., 0],
        np.asarray(Image.open(tmp_path / "white.tif")),
    )
    np.testing.assert_array_equal(image_files.read_pixels(tmp_path / "white.tif"), GREY)
    planes = np.stack([GREY, GREY + 1, GREY + 2])
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(
        image_files.read_image(tmp_path / "planes.tif", 3), np.moveaxis(planes, 0, -1)
    )
    colours = np.repeat(np.arange(256, dtype=np.uint16)[None] * 257, 3, axis=0)
    tifffile.imwrite(tmp_path / "palette.tif", GREY, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(image_files.read_image(tmp_path / "palette.tif", 1)[..., 0], GREY)


@pytest.mark.parametrize("shape", [(5, 8, 9), (3, 8, 9), (2, 8, 8, 3)])
def test_stacks_of_pages_are_refused(shape, tmp_path):
    path = tmp_path / "stack.tif"
    photometric = "rgb" if len(shape) == 4 else "minisblack"
    tifffile.imwrite(path, np.zeros(shape, np.uint8), photometric=photometric)
    for channels in (1, 3):
        with pytest.raises(ValueError, match=r"stack.tif: is uint8 \("):
            image_files.read_image(path, channels)
    with pytest.raises(ValueError, match="no mask of it"):
        image_files.read_mask(path, (8, 9))


def test_masks_in_many_ways(tmp_path):
    white = MASK * np.uint8(255)
    Image.fromarray(white).convert("1").save(tmp_path / "bit.png")
    tifffile.imwrite(tmp_path / "bit.tif", MASK.astype(bool), photometric="minisblack")
    tifffile.imwrite(tmp_path / "float.tif", MASK.astype(np.float32))
    for path in (
        tmp_path / "bit.png",
        tmp_path / "bit.tif",
        tmp_path / "float.tif",
        png(tmp_path / "one.png", MASK),
        png(tmp_path / "red.png", white, 0 * white, 0 * white),
        png(tmp_path / "rgba.png", white, white, white, OPAQUE),
        png(tmp_path / "la.png", white, OPAQUE),
        png(tmp_path / "labels.png", MASK * GREY % 5 + MASK),
        png(tmp_path / "spread.png", MASK * 85),
        palette(tmp_path / "palette.png", [0, 0, 0, 255, 0, 0]),
    ):
        np.testing.assert_array_equal(image_files.read_mask(path, (8, 8)), MASK, path.name)


@pytest.mark.parametrize(
    ("name", "colours"),
    [
        ("both_black", [0, 0, 0] * 256),
        ("none_black", [255, 0, 0, 0, 0, 255]),
        ("white_first", [255, 255, 255, 0, 0, 0]),
    ],
)
def test_masks_that_are_shown_otherwise_are_refused(name, colours, tmp_path):
    path = palette(tmp_path / f"{name}.png", colours)
    tifffile.imwrite(tmp_path / "bits.tif", MASK.astype(bool), photometric="miniswhite")
    for one in (path, tmp_path / "bits.tif"):
        with pytest.raises(ValueError, match="as it is shown, it is another mask"):
            image_files.read_mask(one, (8, 8))


def test_masks_with_noise_are_refused(tmp_path):
    """As JPEG makes them, smooth edges, and noise of white alone."""
    noise = MASK * 250 + GREY % 4
    edges = np.where(MASK > 0, 255, np.minimum(GREY, 40)).astype(np.uint8)
    for i, values in enumerate((noise, edges, 255 - GREY % 9)):
        with pytest.raises(ValueError, match=r"values beside 0 .* as JPEG and smooth resizing"):
            image_files.read_mask(png(tmp_path / f"{i}.png", values.astype(np.uint8)), (8, 8))
