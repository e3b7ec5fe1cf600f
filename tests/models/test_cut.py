"""Parts of loaded models: without the classifier, up to named layers; layers, counts and saved parts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest

import fastconv
from fastconv.cut import Part, features, last_dense, scores
from fastconv.errors import ModelError
from fastconv.onnx.reader import read

from . import nets_exports, nets_formats  # noqa: F401  (add to NETS)
from .builder import Builder
from .nets import NETS, inputs, serialized
from .test_models import TOLERANCE, reference, relative_error

# these make images of images: there is no classifier
IMAGES = ["fully_convolutional", "keras_unet", "paddle_detector_neck", "style_transfer"]
CLASSIFIERS = [n for n in NETS if n not in IMAGES]
# feature maps, where they are not what a mean and a dense layer read
SHAPES = {
    "vgg": (48, 4, 4), "alexnet": (36, 5, 5), "squeezenet": (48, 6, 6), "nhwc": (32, 5, 5), "old_ir": (24, 7, 7),
    "unfused_activations": (20, 6, 6), "two_inputs_two_outputs": (20, 12, 12), "keras_resnet": (40, 8, 8),
    "keras_mobilenet": (16, 8, 8), "paddle_mobilenet": (64, 8, 8),
}  # fmt: skip


def image(name: str, batch: int = 3) -> dict[str, np.ndarray]:
    return inputs(onnx.load_from_string(serialized(name)), batch)


def scores_from(name: str, value: str, given: np.ndarray, other: dict[str, np.ndarray]) -> np.ndarray:
    """onnxruntime's scores where `value` is given; all inputs are zero, for it alone may count."""
    proto = onnx.load_from_string(serialized(name))
    nodes = [n for n in proto.graph.node if value not in n.output]
    assert len(nodes) == len(proto.graph.node) - 1
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.input.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, given.shape))
    zeros = {k: np.zeros_like(x) for k, x in other.items()}
    return reference(proto.SerializeToString(), {**zeros, value: given})[_place(fastconv.load(serialized(name)))]


def the_scores(model: fastconv.Model, x: dict[str, np.ndarray]) -> np.ndarray:
    return model.run(None, x)[_place(model)]


def _place(model: fastconv.Model) -> int:
    return model.graph.outputs.index(scores(model.graph))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_rest_is_the_classifier(name: str) -> None:
    """The rest of the file, run by onnxruntime on the feature maps alone, gives the whole network's scores."""
    model, x = fastconv.load(serialized(name)), image(name)
    maps = model.without_top()(*x.values())
    value, channels_last = features(model.graph)
    given = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)) if channels_last else maps
    assert relative_error(scores_from(name, value.name, given, x), the_scores(model, x)) <= TOLERANCE


@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n != "squeezenet"])
def test_the_last_dense_layer(name: str) -> None:
    """Gemm, or MatMul and Add as Keras and Paddle export it, with or without a softmax."""
    model, x = fastconv.load(serialized(name)), image(name)
    hidden = fastconv.Model(Part(read(serialized(name)), head=True))(*x.values())
    dense = last_dense(model.graph)
    assert hidden.ndim == 2 and dense.output.shape[1] == scores(model.graph).shape[1]
    assert relative_error(scores_from(name, dense.input(0).name, hidden, x), the_scores(model, x)) <= TOLERANCE


@pytest.mark.parametrize("name", IMAGES)
def test_networks_without_a_classifier(name: str) -> None:
    model = fastconv.load(serialized(name))
    for pooling in (None, "avg"):
        with pytest.raises(ModelError, match=r"no classifier: the output '.*' is an image .*: name a layer"):
            model.without_top(pooling=pooling)
    with pytest.raises(ModelError, match="does not end with a dense layer"):
        last_dense(model.graph)
    whole, x = fastconv.Model(Part(read(serialized(name)), headless=True)), image(name)
    want = model(*x.values())
    want = want.transpose(0, 3, 1, 2) if name == "keras_unet" else want
    np.testing.assert_array_equal(whole(*x.values()), want)


def test_squeezenet_has_no_dense_layer() -> None:
    with pytest.raises(ModelError, match="does not end with a dense layer"):
        last_dense(fastconv.load(serialized("squeezenet")).graph)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_feature_maps_and_pooling(name: str) -> None:
    model, x = fastconv.load(serialized(name)), image(name)
    maps = model.without_top()(*x.values())
    assert maps.ndim == 4 and maps.shape[0] == 3 and maps.shape[2] > 1
    assert maps.shape[1:] == SHAPES.get(name, maps.shape[1:])
    for pooling, fn in (("avg", np.mean), ("max", np.max)):
        part = model.without_top(pooling=pooling)
        assert relative_error(part(*x.values()), fn(maps, axis=(2, 3))) <= TOLERANCE
        assert part.outputs[0].shape[1:] == maps.shape[1:2]


@pytest.mark.parametrize("name", ["resnet", "squeezenet", "vgg", "mobilenet_v2", "keras_resnet"])
def test_nothing_more_is_cut_the_second_time(name: str, tmp_path: Path) -> None:
    model, x = fastconv.load(serialized(name)), image(name)
    maps, mean = model.without_top(), model.without_top(pooling="avg")
    for again, want in (
        (maps.without_top(), maps),
        (mean.without_top(), mean),
        (mean.without_top(pooling="avg"), mean),
        (maps.without_top(pooling="avg"), mean),
        (mean.without_top(pooling="max"), model.without_top(pooling="max")),
    ):
        np.testing.assert_array_equal(again(*x.values()), want(*x.values()))
    for part in (maps, mean):  # a file does not say that it was cut
        part.save(tmp_path / "part.onnx")
        with pytest.raises(ModelError, match="no classifier: "):
            fastconv.load(tmp_path / "part.onnx").without_top()


def _backbone(channels: int, *, scores: bool = False) -> onnx.ModelProto:
    """... 64 channels, a 1x1 convolution with ReLU, the mean; with `scores` a softmax after it."""
    b = Builder(5, (3, 16, 16))
    x = b.relu(b.conv(b.conv_bn_relu(b.x, 64, 3, 2), channels, 1, bias=True))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    return b.model((b.op("Softmax", x, axis=1) if scores else x, [channels]))


@pytest.mark.parametrize("channels, scores", [(1000, False), (10, False), (40, True)])
def test_convolutions_as_classifiers(channels: int, scores: bool) -> None:
    model = fastconv.load(_backbone(channels, scores=scores).SerializeToString())
    assert model.without_top()(*np.ones((1, 1, 3, 16, 16), np.float32)).shape == (1, 64, 8, 8)


@pytest.mark.parametrize("channels", [256, 64, 32])
def test_features_of_convolutions_are_no_scores(channels: int) -> None:
    """MobileNet's and VoVNet's last 1x1 convolutions belong to the features of a network without a classifier."""
    model = fastconv.load(_backbone(channels).SerializeToString())
    with pytest.raises(ModelError, match=r"nothing is learnt behind the feature maps '.*' of shape \(1, \d+, 8, 8\)"):
        model.without_top()


@pytest.mark.parametrize("flat", [False, True])
def test_maps_of_one_pixel(flat: bool) -> None:
    """For small images the last maps are of 1x1 pixels: they are behind the convolution that makes them so."""
    b = Builder(6, (3, 4, 4))
    x = b.conv_bn_relu(b.conv_bn_relu(b.x, 8, 3, 2), 16, 3, 2)
    x = b.relu(b.op("Add", b.bn(b.conv(x, 16)), x))
    maps = x
    x = b.op("Flatten", x) if flat else b.op("Flatten", b.op("GlobalAveragePool", x))
    proto = b.model((b.dense(x, 16, 5), [5]))
    model, given = fastconv.load(proto.SerializeToString()), np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    assert features(model.graph)[0].name == maps
    assert model.without_top()(given).shape == (2, 16, 1, 1)


def test_a_convolution_over_the_whole_image_is_dense() -> None:
    b = Builder(6, (3, 8, 8))
    x = b.conv_bn_relu(b.x, 8, 3, 2)
    hidden = b.relu(b.conv(x, 20, 4, 1, (0, 0, 0, 0), bias=True))
    model = fastconv.load(b.model((b.dense(b.op("Flatten", hidden), 20, 5), [5])).SerializeToString())
    assert model.without_top()(np.ones((1, 3, 8, 8), np.float32)).shape == (1, 8, 4, 4)


def test_features_of_any_layer() -> None:
    """Each named layer, one by one and together, against onnxruntime with that value as its output."""
    proto = onnx.load_from_string(serialized("resnet"))
    model, x = fastconv.load(serialized("resnet")), image("resnet")
    names = {n.output[0] for n in proto.graph.node if n.op_type in ("Relu", "Add", "Conv", "MaxPool", "Gemm")}
    by_output = {n.output[0]: n.name for n in proto.graph.node}
    together = model.features(*(by_output[o] for o in names))
    assert len(together.outputs) == len(names) > 20
    for output, got in zip(names, together(*x.values()), strict=True):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        del changed.graph.output[:]
        changed.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
        want = reference(changed.SerializeToString(), x)[0]
        assert relative_error(got, want) <= TOLERANCE
        assert relative_error(model.features(by_output[output])(*x.values()), want) <= TOLERANCE
    maps = model.features(model.layers[3], pooling="avg")(*x.values())
    assert maps.shape == (3, 16)
    twice = model.features(model.layers[3], model.layers[3])
    assert [o.name for o in twice.outputs] == [model.layers[3].name, f"{model.layers[3].name}_1"]
    assert len(twice(*x.values())) == 2


def test_layers_and_counts() -> None:
    b = Builder(1, (3, 16, 16))
    x = b.bn(b.conv(b.x, 8, 3, bias=True))
    model = fastconv.load(b.model((b.head(b.relu(x), 5), [5])).SerializeToString())
    learnable = 8 * 27 + 8 + 16 + 8 * 5 + 5
    assert model.count_params() == learnable
    printed: list[str] = []
    model.summary(print_fn=printed.append)
    assert f"Parameters: {learnable:,} (" in printed[0] and printed[0].endswith("Moving statistics: 16")
    conv, bn = model.layers[0], model.layers[1]
    assert conv.count_params() == 8 * 27 + 8 and bn.count_params() == 16 and len(bn.weights) == 4
    assert conv.output_shape == (None, 16, 16, 8) and model.get_layer(conv.name) is model.get_layer(index=0)
    assert model.get_layer(index=-1) is model.layers[-1]
    np.testing.assert_array_equal(conv.get_weights()[0], model.graph.nodes[0].input(1).numpy())
    for change in (lambda: conv.set_weights(conv.get_weights()), lambda: conv.weights[0].assign(conv.get_weights()[0])):
        with pytest.raises(ModelError, match="a loaded model keeps its file's weights"):
            change()
    with pytest.raises(AttributeError, match=rf"model\.features\('{conv.name}'\) gives its output"):
        _ = conv.output
    for kwargs in (dict(name="none"), dict(index=99), dict(index=-99), {}):
        with pytest.raises(ValueError, match="layer"):
            model.get_layer(**kwargs)  # type: ignore[arg-type]


def test_settings_stay_and_parts_pickle() -> None:
    model = fastconv.load(serialized("vgg"), threads=1, precision="strict")
    part = model.without_top(pooling="max")
    assert (part.threads, part.precision, part.isa) == (1, "strict", model.isa)
    x = image("vgg")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(part)).run(None, x)[0], part.run(None, x)[0])


def test_parts_save(tmp_path: Path) -> None:
    part, x = fastconv.load(serialized("mobilenet_v3")).without_top(pooling="avg"), image("mobilenet_v3")
    part.save(tmp_path / "part.onnx")
    assert relative_error(reference(tmp_path / "part.onnx", x)[0], part(*x.values())) <= TOLERANCE
    library = pytest.importorskip("safetensors.numpy")
    part.save(tmp_path / "part.safetensors")
    arrays = library.load_file(tmp_path / "part.safetensors")
    proto = onnx.load_from_string(serialized("mobilenet_v3"))
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert len(arrays) > 10
    for name, array in arrays.items():
        if name in stored:
            np.testing.assert_array_equal(array, stored[name])


@pytest.mark.parametrize("after", ["Relu", "MaxPool"])
@pytest.mark.parametrize("flat", [True, False])
def test_images_with_channels_last_come_out_channels_first(after: str, flat: bool) -> None:
    """A file of Keras', with the last activation behind the Transpose or in front of it."""
    b = Builder(4, (3, 8, 8))
    x = b.conv(b.x, 6, 3, bias=True)
    x = b.pool("MaxPool", x, 2, 2) if after == "MaxPool" else x
    maps = b.op("Transpose", x, perm=[0, 2, 3, 1])
    maps = b.relu(maps) if after == "Relu" else maps
    size = 16 if after == "MaxPool" else 64
    flat_maps = b.op("Flatten", maps, axis=1) if flat else b.mean(maps, (1, 2), 0)
    proto = b.model((b.dense(flat_maps, 6 * size if flat else 6, 5), [5]))
    model, image = fastconv.load(proto.SerializeToString()), np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    got = model.without_top()(image)
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(maps, onnx.TensorProto.FLOAT, None))
    want = reference(proto.SerializeToString(), {"input": image})[0]
    assert relative_error(got, np.ascontiguousarray(want.transpose(0, 3, 1, 2))) <= TOLERANCE


def test_metadata_stays(tmp_path: Path) -> None:
    proto = onnx.load_from_string(serialized("vgg"))
    onnx.helper.set_model_props(proto, {"labels": "cat,dog"})
    model = fastconv.load(proto.SerializeToString())
    for m in (model, model.without_top(), model.without_top().features(model.layers[2].name)):
        m.save(tmp_path / "m.onnx")
        assert {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props} == {"labels": "cat,dog"}


def test_errors() -> None:
    model = fastconv.load(serialized("vgg"))
    with pytest.raises(ModelError, match=r"no layer named 'pool9'.* it has '"):
        model.features("pool9")
    for wrong in ((), (3,), (None,), (["pool_1"],)):
        with pytest.raises(ValueError, match="at least one"):
            model.features(*wrong)
    with pytest.raises(ValueError, match="pooling='sum'"):
        model.without_top(pooling="sum")
    with pytest.raises(ModelError, match="pooling: expected feature maps"):
        model.features(model.layers[-1].name, pooling="avg")
    b = Builder(1, (3, 16, 16))
    flat = b.dense(b.op("Flatten", b.x, axis=1), 3 * 256, 5)
    only_dense = fastconv.load(b.model((flat, [5])).SerializeToString())
    assert only_dense.without_top()(np.ones((1, 3, 16, 16), np.float32)).shape == (1, 3, 16, 16)
