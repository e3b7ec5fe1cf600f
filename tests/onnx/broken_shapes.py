"""Broken models, third part: operators that resize, choose, rank and normalise, asked for what cannot be."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.onnx.corpus import add, array, one
from tests.onnx.helpers import make_model

F32 = np.float32


def resize(scales: list[float] | None = None, sizes: list[int] | None = None, **attrs: object) -> object:
    weights = {"s": np.array(scales, F32)} if scales is not None else {"z": np.array(sizes)}
    names = ["x", "", "s"] if scales is not None else ["x", "", "", "z"]
    return one("Resize", weights, names=names, **attrs)


# -- Resize -----------------------------------------------------------------------------------------------------------
add("resize_without_sizes", lambda: one("Resize", names=["x"]))
add("resize_three_scales", lambda: resize([1, 1, 2]))
add("resize_scale_0", lambda: resize([1, 1, 0, 2]))
add("resize_scale_negative", lambda: resize([1, 1, -2, 2]))
add("resize_scale_nan", lambda: resize([1, 1, np.nan, 2]))
add("resize_scale_infinite", lambda: resize([1, 1, np.inf, 2]))
add("resize_scale_huge", lambda: resize([1, 1, 1e9, 1e9]))
add("resize_scale_tiny_antialias", lambda: resize([1, 1, 1e-9, 1e-9], mode="linear", antialias=1))
add("resize_sizes_negative", lambda: resize(sizes=[1, 4, -8, 8]))
add("resize_sizes_huge", lambda: resize(sizes=[1, 4, 2**40, 8]))
add("resize_sizes_large_table", lambda: resize(sizes=[1, 4, 2**23, 8], mode="cubic"))
add("resize_mode_unknown", lambda: resize([1, 1, 2, 2], mode="lanczos"))
add("resize_coordinates_unknown", lambda: resize([1, 1, 2, 2], coordinate_transformation_mode="sideways"))
add("resize_nearest_unknown", lambda: resize([1, 1, 2, 2], nearest_mode="far"))
add("resize_axes_repeat", lambda: resize([2, 2], axes=[2, 2]))
add("resize_axes_beyond", lambda: resize([2, 2], axes=[2, 9]))
add("resize_policy_unknown", lambda: resize(sizes=[1, 4, 8, 8], keep_aspect_ratio_policy="maybe"))
add("resize_crop_without_roi", lambda: resize([1, 1, 2, 2], coordinate_transformation_mode="tf_crop_and_resize"))

# -- ConvTranspose ----------------------------------------------------------------------------------------------------
add("deconv_channels", lambda: one("ConvTranspose", {"w": array(3, 4, 3, 3)}))
add("deconv_group", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, group=3))
add("deconv_group_0", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, group=0))
add("deconv_stride_huge", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, strides=[2**30, 2**30]))
add("deconv_dilation_huge", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, dilations=[2**30, 1]))
add("deconv_pads_cut_all", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, pads=[99, 0, 99, 0]))
add("deconv_pads_negative", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, pads=[-1, 0, 0, 0]))
add("deconv_output_padding_negative", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, output_padding=[-1, 0]))
add("deconv_output_padding_huge", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, output_padding=[2**31 - 1, 0]))
add("deconv_output_shape_huge", lambda: one("ConvTranspose", {"w": array(4, 4, 3, 3)}, output_shape=[2**31 - 1] * 2))
add("deconv_kernel_empty", lambda: one("ConvTranspose", {"w": array(4, 4, 0, 3)}))
add("deconv_many_phases", lambda: one("ConvTranspose", {"w": array(4, 300, 3, 3)}, strides=[999, 999]))

# -- moving -----------------------------------------------------------------------------------------------------------
add("depth_to_space_0", lambda: one("DepthToSpace", blocksize=0))
add("depth_to_space_channels", lambda: one("DepthToSpace", blocksize=3))
add("space_to_depth_size", lambda: one("SpaceToDepth", blocksize=7))
add("tile_huge", lambda: one("Tile", {"r": np.array([1, 1, 2**31, 2**31])}))
add("tile_large", lambda: one("Tile", {"r": np.array([1, 1, 2**40, 1])}))
add("tile_negative", lambda: one("Tile", {"r": np.array([1, 1, -1, 1])}))
add("pad_wrap_huge", lambda: one("Pad", {"p": np.array([0, 0, 2**30, 0, 0, 0, 0, 0])}, mode="wrap"))
add("gather_nd_beyond", lambda: one("GatherND", {"i": np.array([[5]])}))
add("gather_nd_float", lambda: one("GatherND", {"i": array(2, 1)}))
add("gather_nd_deep", lambda: one("GatherND", {"i": np.zeros((2, 9), np.int64)}))
add("gather_elements_beyond", lambda: one("GatherElements", {"i": np.full((1, 4, 8, 8), 9)}, axis=1))
add("gather_elements_rank", lambda: one("GatherElements", {"i": np.zeros((1, 4), np.int64)}))

# -- choosing ---------------------------------------------------------------------------------------------------------
add("where_condition_float", lambda: one("Where", {"a": array(1), "b": array(1)}))
add("equal_types", lambda: one("Equal", {"c": np.array([1])}))
add("and_of_floats", lambda: one("And", {"c": np.array([True])}))
add("arg_max_axis", lambda: one("ArgMax", axis=7))
add("arg_max_scalar", lambda: one("ArgMax", x=[]))
add("top_k_beyond", lambda: one("TopK", {"k": np.array([9])}))
add("top_k_negative", lambda: one("TopK", {"k": np.array([-1])}))
add("one_hot_depth_huge", lambda: one("OneHot", {"d": np.array(2**40), "v": array(2)}))
add("one_hot_values", lambda: one("OneHot", {"d": np.array(4), "v": array(3)}))
add("suppress_ranks", lambda: one("NonMaxSuppression", {"s": array(1, 1, 4)}))
add(
    "suppress_threshold",
    lambda: make_model(
        [helper.make_node("NonMaxSuppression", ["b", "s", "n", "t"], ["y"])],
        {"b": [1, 5, 4], "s": [1, 2, 5]}, ["y"], {"n": np.array([3]), "t": np.array([1.5], F32)}, output_type=7,
    ),
)  # fmt: skip
add(
    "suppress_is_read",
    lambda: make_model(
        [helper.make_node("NonMaxSuppression", ["b", "s", "n"], ["k"]), helper.make_node("Shape", ["k"], ["y"])],
        {"b": [1, 5, 4], "s": [1, 2, 5]}, ["y"], {"n": np.array([3])}, output_type=7,
    ),
)  # fmt: skip

# -- normalising ------------------------------------------------------------------------------------------------------
add("instance_norm_channels", lambda: one("InstanceNormalization", {"s": array(3), "b": array(3)}))
add("instance_norm_epsilon", lambda: one("InstanceNormalization", {"s": array(4), "b": array(4)}, epsilon=-1.0))
add("group_norm_groups", lambda: one("GroupNormalization", {"s": array(3), "b": array(3)}, num_groups=3))
add("group_norm_0", lambda: one("GroupNormalization", {"s": array(4), "b": array(4)}, num_groups=0))
add("layer_norm_scale", lambda: one("LayerNormalization", {"s": array(3)}))
add("layer_norm_axis", lambda: one("LayerNormalization", {"s": array(8)}, axis=9))
add("batch_norm_training", lambda: one("BatchNormalization", {n: array(4) for n in "smvb"}, training_mode=1))
