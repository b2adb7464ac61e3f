"""Every kind of image file becomes the 8-bit RGB image that a person would see."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from command import run_cold
from PIL import Image

from detr.data.images import free_memory, image_size, read_image
from detr.data.panoptic.segment_ids import read_segment_ids
from detr.errors import UserError

ORIENTATIONS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}  # EXIF 2.32, tag 274: what is to be done with the stored pixels


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def read(path: Path, **keywords: object) -> np.ndarray:
    image = read_image(str(path), **keywords)
    assert image.mode == "RGB"
    if not keywords:
        assert image_size(str(path)) == (image.height, image.width)
    return np.asarray(image)


def save(path: Path, image: Image.Image, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def test_rgb_is_untouched(tmp_path, pixels):
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    assert (read(path) == pixels).all()
    assert (read(path, size=(6, 9)) == pixels).all()


def test_greyscale(tmp_path, pixels):
    grey = pixels[..., 0]
    assert (read(save(tmp_path / "a.png", Image.fromarray(grey))) == grey[..., None]).all()
    assert (read(save(tmp_path / "b.png", Image.fromarray(grey > 128))) == 255 * (grey > 128)[..., None]).all()


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert read(save(tmp_path / "a.png", image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_transparent_pixels_lie_on_white(tmp_path):
    """Whatever colour they hide."""
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 51]]], dtype=np.uint8)
    result = read(save(tmp_path / "a.png", Image.fromarray(rgba)))
    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[0, 1].tolist() == [10, 20, 30]
    assert np.abs(result[0, 2] - np.array([204, 224, 244])).max() <= 1  # 0.2 of the colour, 0.8 of white


def test_transparency_of_other_modes(tmp_path):
    grey = np.array([[[10, 0], [20, 255]]], dtype=np.uint8)
    assert read(save(tmp_path / "la.png", Image.fromarray(grey))).tolist() == [[[255] * 3, [20] * 3]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert read(tmp_path / "p.png").tolist() == [[[255] * 3, [200, 100, 50]]]


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    image.save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() < 8  # no cyan, all magenta and yellow: red


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_not_clipped(tmp_path, suffix):
    samples = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(samples).save(tmp_path / f"a.{suffix}")
    result = read(tmp_path / f"a.{suffix}")
    assert result[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (result == result[..., :1]).all()


def test_16_bit_in_32_bit_samples(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("samples", [np.array([[0, 70000]], dtype=np.int32), np.array([[0.5]], dtype=np.float32)])
def test_samples_without_a_range_are_refused(tmp_path, samples):
    Image.fromarray(samples).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: .* no defined range"):
        read_image(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_exif_orientation_is_applied(tmp_path, pixels, orientation, mode):
    path = tmp_path / "a.jpg"
    save(path, Image.fromarray(pixels).convert(mode), orientation)
    with Image.open(path) as stored:
        raw = np.asarray(stored.convert("RGB"))
    upright = ORIENTATIONS[orientation](raw)
    assert (read(path) == upright).all()
    assert (read(path, size=upright.shape[:2]) == upright).all()


def test_boxes_made_on_raw_pixels_keep_the_raw_pixels(tmp_path, pixels):
    """The JSON gives the size as stored: the annotation tool did not look at the EXIF orientation."""
    path = save(tmp_path / "a.png", Image.fromarray(pixels), 6)
    assert (read(path, size=(6, 9)) == pixels).all()
    assert (read(path, size=(9, 6)) == np.rot90(pixels, -1)).all()


def test_png_orientation(tmp_path, pixels):
    assert (read(save(tmp_path / "a.png", Image.fromarray(pixels), 3)) == pixels[::-1, ::-1]).all()


@pytest.mark.parametrize("orientation", [0, 9, 1])
def test_meaningless_orientations_change_nothing(tmp_path, pixels, orientation):
    assert (read(save(tmp_path / "a.png", Image.fromarray(pixels), orientation)) == pixels).all()


@pytest.mark.parametrize("orientation", [None, 6])
def test_another_size_than_the_json_says(tmp_path, pixels, orientation):
    path = save(tmp_path / "a.png", Image.fromarray(pixels), orientation)
    with pytest.raises(UserError, match=r"a\.png: the image is \d × \d .* the annotations say 8 × 6"):
        read_image(str(path), size=(6, 8))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_truncated_files_are_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for length in (len(content) // 2, 20, 3, 0):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=rf"a\.{suffix}: not a readable image") as caught:
            read_image(str(path))
        assert "\n" not in str(caught.value)


def test_files_that_are_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("no image\nat all")
    with pytest.raises(UserError, match=r"a\.jpg: not a readable image") as caught:
        read_image(str(tmp_path / "a.jpg"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"b\.jpg: no such image file"):
        read_image(str(tmp_path / "b.jpg"))
    with pytest.raises(UserError, match="not a readable image"):
        read_image(str(tmp_path))


def test_damaged_pixels_are_named(tmp_path, pixels):
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    path.write_bytes(content[: start + 10] + bytes(8) + content[start + 18 :])
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        read_image(str(path))


def test_a_bomb_is_refused(tmp_path):
    """A header that claims 10^10 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        read_image(str(tmp_path / "a.png"))


def head_of(path: Path, width: int, height: int) -> str:
    """A PNG that says its size and ends there."""
    head = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I4s", 0, b"IDAT") + struct.pack(">I", 0x35AF061E))
    return str(path)


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (20_000, 10_000), (20_000, 20_000)])
def test_an_image_may_be_large(width, height, tmp_path, monkeypatch, recwarn):
    """Beyond each of Pillow's limits: that it warns from, and twice as many pixels."""
    path = head_of(tmp_path / "large.png", width, height)
    assert image_size(path) == (height, width)
    monkeypatch.setattr("detr.data.images.free_memory", lambda: 100_000_000)
    words = rf"large\.png: the image is {width} × {height} \({width * height / 1e6:.0f} megapixels\), which takes .* GB"
    with pytest.raises(UserError, match=words):
        read_image(path)
    with pytest.raises(UserError, match=words):
        read_segment_ids(path, (height, width))
    assert not recwarn.list


def test_memory_is_known_where_the_system_says_it():
    free = free_memory()
    assert free is None or 10**6 < free < 10**14


@pytest.mark.slow
def test_two_hundred_megapixels_are_read(tmp_path):
    Image.new("L", (20_000, 10_000), 7).save(tmp_path / "large.png", compress_level=1)
    assert read_image(str(tmp_path / "large.png"), (10_000, 20_000)).getpixel((19_999, 9_999)) == (7, 7, 7)


def test_pillows_warnings_do_not_flood(tmp_path):
    """Of an EXIF block that says more than it has, which Pillow warns of, and a training does not."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
    theirs = run_cold("-c", f"from PIL import Image; Image.open({str(tmp_path / 'a.jpg')!r}).getexif()")
    ours = run_cold("-c", f"from detr.data.images import read_image; read_image({str(tmp_path / 'a.jpg')!r})")
    assert (theirs.returncode, ours.returncode) == (0, 0), ours.stderr
    assert "EXIF" in theirs.stderr
    assert ours.stderr == ""
