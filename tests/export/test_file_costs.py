"""Costs that are recounted from files, by hand: every kind of product."""
import tfprune  # noqa: F401  (before tensorflow and keras)
import keras

from tfprune.export import exporter as export
from tfprune.export.base import ArtifactCost
from tfprune.export.operator_cost import tflite_cost
from tfprune.testing import randomize

L = keras.layers


def mixed_cnn():
    """Every kind of product that is counted: see MIXED_MACS. TFLite drops biases of zeros."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(5, 3, use_bias=False)(inputs)
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = L.Conv2DTranspose(4, 2, strides=2)(x)
    x = L.Reshape((2, -1))(x)
    x = L.Flatten()(L.Dense(7, use_bias=False)(x))
    return randomize(keras.Model(inputs, L.Dense(2)(x)))


# conv: 6·6 places · 5 · 3·3·3; depthwise: 4·4 · 10 · 3·3; transposed: 4·4 · 10 · 2·2·4 -> 8×8×4;
# dense on two rows of 128: 2 · 128 · 7; dense: 14 · 2.
MIXED_MACS = 36 * 5 * 27 + 16 * 10 * 9 + 16 * 10 * 16 + 2 * 128 * 7 + 14 * 2
# Weights and biases; the first convolution has no bias, but TFLite adds one of zeros.
MIXED_PARAMS = 5 * 27 + (10 * 9 + 10) + (10 * 16 + 4) + 128 * 7 + (14 * 2 + 2)


def test_costs_recounted_from_files_are_the_sums(tmp_path):
    report = export.export_model(
        mixed_cnn(), tmp_path / 'export', formats=['saved_model', 'tflite'])
    opened = {name: export.FORMATS[name].open(path).cost() for name, path in report.paths.items()}
    assert opened['saved_model'] == ArtifactCost(MIXED_MACS, MIXED_PARAMS)
    zero_bias = 5
    assert opened['tflite'] == ArtifactCost(MIXED_MACS, MIXED_PARAMS + zero_bias)
    assert tflite_cost(report.paths['tflite'].read_bytes()) == opened['tflite']


def test_grouped_convolution_is_counted_or_listed(tmp_path):
    """4·4 places · 6 channels · 3·3·2 inputs of its group."""
    model = keras.Sequential([keras.Input((6, 6, 4)), L.Conv2D(6, 3, groups=2, use_bias=False),
                              L.GlobalMaxPooling2D()])
    report = export.export_model(model, tmp_path / 'export', formats=['saved_model', 'tflite'])
    assert tflite_cost(report.paths['tflite']).macs == 16 * 6 * 18
    hidden = export.FORMATS['saved_model'].open(report.paths['saved_model']).cost()
    assert hidden.macs == 16 * 6 * 18 or hidden.uncounted
