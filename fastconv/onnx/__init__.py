"""The ONNX front end: `read` turns a file into an OnnxModel, whose `build` makes a Graph for concrete input shapes."""

from fastconv.onnx.reader import InputInfo, OnnxModel, OutputInfo, read
from fastconv.onnx.registry import MAX_OPSET, MIN_OPSET, supported

__all__ = ["MAX_OPSET", "MIN_OPSET", "InputInfo", "OnnxModel", "OutputInfo", "read", "supported"]
