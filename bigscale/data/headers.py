"""The size and channels of an image file, from its first bytes."""

from bigscale.data import images, orientation, pillow

# Most headers end before this; a long colour profile may come first.
FIRST_BYTES = 1 << 16


def shape_of(data: bytes) -> tuple[int, int, int]:
  """Returns height, width and channels (1 or 3), as `images.decode` gives them.

  Pixels are not decoded: the file may still prove to be cut short.

  Args:
    data: the file, or so much of it that the header is whole.

  Raises:
    ValueError: the bytes are no image, or the header is not all there.
  """
  try:
    with pillow.opened(data) as file:
      width, height = orientation.size_of(file)
      channels = images.channels_of(file.mode)
  except Exception as error:  # Pillow's parsers have many for damaged headers
    raise ValueError(f"its header cannot be read ({error})") from error
  return height, width, channels
