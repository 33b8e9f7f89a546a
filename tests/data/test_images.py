"""Images of all formats become [H, W, 1 or 3] uint8, or raise an error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bigscale.data import images

SIDE = 16


def photo(channels=3):
  """Returns a smooth image with different colors, which JPEG preserves."""
  y, x = np.mgrid[0:SIDE, 0:SIDE]
  planes = [8 * x + 4 * y, 255 - 12 * x, 10 * y + 30, 255 - 15 * y]
  return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def file_of(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def pillow(data, mode):
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image.convert(mode))


@pytest.mark.parametrize(
  "options",
  [
    {"quality": 90},
    {"quality": 75, "subsampling": "4:2:0"},
    {"quality": 95, "subsampling": "4:4:4", "progressive": True},
  ],
)
def test_jpegs_decode_as_in_pillow(options):
  data = file_of(Image.fromarray(photo()), "JPEG", **options)
  decoded = images.decode(data)
  assert decoded.shape == (SIDE, SIDE, 3)
  np.testing.assert_array_equal(decoded, pillow(data, "RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_gray_stays_gray(kind):
  data = file_of(Image.fromarray(photo(1)[..., 0]), kind)
  decoded = images.decode(data)
  assert decoded.shape == (SIDE, SIDE, 1)
  np.testing.assert_array_equal(decoded[..., 0], pillow(data, "L"))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind):
  data = file_of(Image.fromarray(photo()), kind)
  np.testing.assert_array_equal(images.decode(data), photo())


def test_lossless_webp_keeps_every_pixel():
  data = file_of(Image.fromarray(photo()), "WEBP", lossless=True)
  np.testing.assert_array_equal(images.decode(data), photo())


def test_cmyk_becomes_rgb():
  data = file_of(Image.fromarray(photo(4), "CMYK"), "TIFF")
  decoded = images.decode(data)
  ink, black = photo(4)[..., :3].astype(int), photo(4)[..., 3:].astype(int)
  expected = (255 - ink) * (255 - black) / 255
  np.testing.assert_allclose(decoded, expected, atol=1)


def test_cmyk_jpegs_decode_as_in_pillow():
  data = file_of(Image.fromarray(photo(4), "CMYK"), "JPEG", quality=95)
  np.testing.assert_array_equal(images.decode(data), pillow(data, "RGB"))


def test_transparent_pixels_are_composited_on_white():
  image = photo(4)
  image[..., 3] = 255
  image[:4, :, 3] = 0
  image[4, :, 3] = 128
  decoded = images.decode(file_of(Image.fromarray(image), "PNG"))
  assert (decoded[:4] == 255).all()
  np.testing.assert_allclose(
    decoded[4], image[4, :, :3] * (128 / 255) + 127, atol=1
  )
  np.testing.assert_array_equal(decoded[5:], image[5:, :, :3])


def test_transparent_gray_is_composited_on_white_and_stays_gray():
  image = photo(2)
  image[..., 1] = 255
  image[:4, :, 1] = 0
  decoded = images.decode(file_of(Image.fromarray(image, "LA"), "PNG"))
  assert decoded.shape == (SIDE, SIDE, 1)
  assert (decoded[:4] == 255).all()
  np.testing.assert_array_equal(decoded[5:, :, 0], image[5:, :, 0])


def palette_image():
  image = Image.new("P", (2, 1))
  image.putpalette([10, 20, 30, 200, 100, 50])
  image.putdata([0, 1])
  return image


def test_palettes_become_rgb():
  decoded = images.decode(file_of(palette_image(), "PNG"))
  np.testing.assert_array_equal(decoded, [[[10, 20, 30], [200, 100, 50]]])


def test_transparent_palettes_are_composited_on_white():
  data = file_of(palette_image(), "PNG", transparency=b"\x00\xff")
  decoded = images.decode(data)
  np.testing.assert_array_equal(decoded, [[[255] * 3, [200, 100, 50]]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight(kind):
  wide = np.array([[0, 255, 256, 40000, 65535]], np.uint16)
  decoded = images.decode(file_of(Image.fromarray(wide), kind))
  np.testing.assert_array_equal(decoded[..., 0], [[0, 0, 1, 156, 255]])
  assert decoded.dtype == np.uint8


def test_one_bit_is_black_and_white():
  data = file_of(Image.fromarray(np.array([[True, False]])), "PNG")
  np.testing.assert_array_equal(images.decode(data), [[[255], [0]]])


def test_only_the_first_frame_of_an_animation_is_decoded():
  first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4))
  data = file_of(first, "GIF", save_all=True, append_images=[second])
  np.testing.assert_array_equal(
    images.decode(data), np.broadcast_to([255, 0, 0], (4, 4, 3))
  )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_half_a_file_is_an_error(kind, share):
  noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
  data = file_of(Image.fromarray(noise), kind)
  assert images.decode(data).shape == noise.shape
  with pytest.raises(ValueError, match="it does not decode"):
    images.decode(data[: int(share * len(data))])


def test_a_truncated_progressive_or_cmyk_jpeg_is_an_error():
  color = file_of(Image.fromarray(photo()), "JPEG", progressive=True)
  ink = file_of(Image.fromarray(photo(4), "CMYK"), "JPEG")
  for data in (color, ink):
    with pytest.raises(ValueError, match="it does not decode"):
      images.decode(data[: len(data) * 3 // 4])


def test_an_empty_file_is_an_error():
  with pytest.raises(ValueError, match="it has 0 bytes"):
    images.decode(b"")


@pytest.mark.parametrize(
  "data",
  [b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0" * 99],
)
def test_bytes_that_are_not_an_image_are_an_error(data):
  with pytest.raises(ValueError, match="it does not decode"):
    images.decode(data)


@pytest.mark.parametrize(
  ("values", "reason"),
  [
    (np.full((4, 4), 0.5, np.float32), "mode F"),
    (np.full((4, 4), 200, np.int32), "mode I"),
    (np.full((4, 4), 70_000, np.int32), "mode I"),
    (np.full((4, 4), -5, np.int32), "mode I"),
  ],
)
def test_pixels_of_unknown_range_are_an_error(values, reason):
  data = file_of(Image.fromarray(values), "TIFF")
  with pytest.raises(ValueError, match=f"{reason}.* which value is white"):
    images.decode(data)


def tiff(values, bits, **tags):
  """Returns a TIFF of packed gray values, which Pillow cannot write."""
  height, width = values.shape
  if bits == 12:
    pairs = values.reshape(-1, 2).astype(np.int64)
    packed = b"".join(
      bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs
    )
  else:
    packed = values.astype(f"<i{bits // 8}").tobytes()
  numbers = {
    **{256: width, 257: height, 258: bits, 259: 1, 262: tags.get("white", 1)},
    **{273: 0, 277: 1, 278: height, 279: len(packed)},
    339: tags.get("sample_format", 1),
  }
  numbers[273] = 8 + 2 + 12 * len(numbers) + 4
  entries = b"".join(
    struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items()
  )
  head = b"II*\0" + struct.pack("<IH", 8, len(numbers))
  return head + entries + bytes(4) + packed


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_pixels_are_an_error(bits):
  data = tiff(np.full((2, 2), -100), bits, sample_format=2)
  with pytest.raises(ValueError, match="which value is white"):
    images.decode(data)


def test_twelve_bits_keep_their_upper_eight():
  data = tiff(np.array([[0, 15, 16, 4095]]), 12)
  np.testing.assert_array_equal(images.decode(data)[..., 0], [[0, 0, 1, 255]])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_with_white_as_zero_is_inverted(bits):
  whole = 2**bits - 1
  data = tiff(np.array([[0, whole]]), bits, white=0)
  np.testing.assert_array_equal(images.decode(data)[..., 0], [[255, 0]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_eight_bits_in_sixteen_are_an_error_not_black(kind):
  wide = np.array([[0, 7, 255]], np.uint16)
  with pytest.raises(ValueError, match="no value above 255"):
    images.decode(file_of(Image.fromarray(wide), kind))
  assert not images.decode(file_of(Image.fromarray(wide * 0), kind)).any()


def png_of_16_bits(values):
  """Returns a color PNG of 16 bits, which Pillow reads but cannot write."""

  def chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check

  height, width, channels = values.shape
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
  color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBB3x", width, height, 16, color))
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_any_channels_keep_their_upper_eight(channels):
  values = np.full((2, 2, channels), 65535, np.uint16)
  values[0, 0, : 3 if channels > 2 else 1] = 40_000
  decoded = images.decode(png_of_16_bits(values))
  # Pillow opens gray with transparency of 16 bits as color.
  assert decoded.shape[-1] == (1 if channels == 1 else 3)
  assert (decoded[0, 0] == 156).all()
  assert (decoded[1] == 255).all()


def test_eight_bits_in_sixteen_of_color_are_an_error_not_black():
  data = png_of_16_bits(np.full((2, 2, 3), 200, np.uint16))
  with pytest.raises(ValueError, match="no value above 255"):
    images.decode(data)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trips(channels):
  data = images.encode(photo(channels), "png")
  np.testing.assert_array_equal(images.decode(data), photo(channels))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_round_trips_approximately(channels):
  data = images.encode(photo(channels), "jpeg", quality=98)
  decoded = images.decode(data).astype(int)
  assert decoded.shape == (SIDE, SIDE, channels)
  assert np.abs(decoded - photo(channels)).mean() < 2
