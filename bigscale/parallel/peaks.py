"""Peak FLOP/s of devices."""

from collections.abc import Iterable
from typing import Any

# Peak bfloat16 FLOP/s per chip, from Google's Cloud TPU documentation of each
# family (docs.cloud.google.com/tpu/docs/v5e and so on).
CHIP_PEAK_FLOPS = {
  "v3": 123e12,
  "v4": 275e12,
  "v5e": 197e12,
  "v5p": 459e12,
  "v6e": 918e12,
}
# JAX's device kinds of each family.
_FAMILIES = {
  "TPU v3": "v3",
  "TPU v4": "v4",
  "TPU v5 lite": "v5e",
  "TPU v5e": "v5e",
  "TPU v5": "v5p",
  "TPU v5p": "v5p",
  "TPU v6 lite": "v6e",
  "TPU v6e": "v6e",
}


def peak_flops(devices: Iterable[Any]) -> float | None:
  """Returns the total peak FLOP/s of the chips of these devices.

  A device is a chip or, on v3, a core of a chip.

  Args:
    devices: JAX devices.

  Returns:
    The total, or None if the peak of any device is unknown.
  """
  chips = {}
  for device in devices:
    family = _FAMILIES.get(device.device_kind)
    if family is None:
      return None
    chip = (getattr(device, "slice_index", 0), tuple(device.coords))
    chips[chip] = CHIP_PEAK_FLOPS[family]
  return sum(chips.values())
