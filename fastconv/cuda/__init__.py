"""Running on an NVIDIA GPU: device="cuda" of fastconv.load.

The kernels are in a library of their own (csrc/cuda), which is loaded when the first model asks for the device. The
compiler is the same as the CPU's; what differs is gathered in `Target`.
"""

from __future__ import annotations

from .arrays import DeviceArray
from .target import Target

__all__ = ["DeviceArray", "Target"]
