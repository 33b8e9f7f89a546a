"""The models there are."""

from bigscale.spec.biggan import BigganSpec
from bigscale.spec.biggan_deep import BigganDeepSpec
from bigscale.spec.r3gan import R3ganSpec
from bigscale.spec.stripped import StrippedSpec

ModelSpec = R3ganSpec | BigganSpec | BigganDeepSpec | StrippedSpec
