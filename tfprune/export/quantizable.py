"""A Keras 3 model as a tf_keras model that rounds as int8 does, by TensorFlow Model Optimization.

TFMOT rounds kernels, and activations where TFLite's fused integer operators round. Where it has no
recipe of its own:

1. `Rescaling`, `Normalization` and batch normalization that follows no convolution or dense layer
   become depthwise convolutions of 1x1, one integer operator.
2. Batch normalization goes into the dense layer before it, a plain ReLU into the kernel before it,
   swish becomes a product.
3. Layers that TFLite computes in integers but TFMOT does not know get their output rounded.
4. The ends of the input are those of its range exactly, so that the 256 integers are the bytes of a
   picture.
5. Batch normalization is frozen, statistics and all: what trains is what is deployed. With the
   statistics of each batch, a ResNet-20 on CIFAR-10 lost a point in a short fine-tuning.

`tf_keras` and TFMOT take seconds to import, so that functions do it.
"""
from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.pixels import BYTES, PixelRange
from tfprune.errors import first_line
from tfprune.export.base import image_shape_of, num_classes_of
from tfprune.export.keras2 import to_keras2

# Layers that TFMOT rounds by itself, on their own or together with a neighbor.
_KNOWN = frozenset((
    'InputLayer', 'Conv2D', 'DepthwiseConv2D', 'SeparableConv2D', 'Conv2DTranspose', 'Dense',
    'BatchNormalization', 'ReLU', 'LeakyReLU', 'Softmax', 'Activation', 'Concatenate', 'Add',
    'AveragePooling2D', 'GlobalAveragePooling2D', 'MaxPooling2D', 'GlobalMaxPooling2D',
    'ZeroPadding2D', 'Cropping2D', 'UpSampling2D', 'Flatten', 'Reshape', 'Permute', 'Dropout',
    'SpatialDropout2D', 'ActivityRegularization'))
# Those that it does not know: whose output is rounded, and which change nothing in inference.
_OUTPUT_ROUNDED = frozenset(('Multiply', 'Subtract', 'Maximum', 'Minimum'))
_UNCHANGED = frozenset(('Identity', 'GaussianNoise', 'GaussianDropout', 'AlphaDropout'))
_AFFINE = frozenset(('Rescaling', 'Normalization', 'BatchNormalization'))
# Activations, as arguments or layers, that TFMOT places rounding around and TFLite has as integer.
_ACTIVATIONS = frozenset(('linear', 'relu', 'swish', 'gelu', 'softmax', 'sigmoid', 'tanh'))
_FOLDING = frozenset(('Conv2D', 'DepthwiseConv2D', 'SeparableConv2D', 'Dense'))


def quantizable(model: keras.Model) -> Any:
    """Returns the tf_keras model that rounds as int8 does, with the weights of a Keras 3 model.

    The ranges of its activations are not measured yet.

    Raises:
        ValueError: names the layer that has no counterpart in tf_keras or no int8 form.
    """
    return prepare(model)[1]


def prepare(model: keras.Model, pixels: PixelRange = BYTES) -> tuple[Any, Any]:
    """Returns (the rebuilt model, annotated and still float; the one that rounds).

    pixels: the range of its images.
    """
    image_shape_of(model)
    num_classes_of(model)
    import tensorflow_model_optimization as tfmot
    import tf_keras

    quantization = tfmot.quantization.keras
    annotated = _Annotation(quantization).annotate(to_keras2(model, swish_as_product=True))
    _reserve_names([layer.name for layer in annotated.layers]
                   + [layer.layer.name for layer in annotated.layers if hasattr(layer, 'layer')])
    with quantization.quantize_scope(_configs(quantization)):
        try:
            quantized = quantization.quantize_apply(annotated)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"model '{model.name}' cannot be prepared for quantization-aware "
                             f'training: {first_line(error)}') from error
    for weight in quantized.non_trainable_weights:
        end = re.search(r'quantize_layer\w*_(min|max):0$', weight.name)
        if end:
            low, high = pixels.ends or (pixels.low, pixels.high)
            weight.assign(min(low, 0) if end[1] == 'min' else max(high, 0))
    for layer in quantized.layers:
        norm = getattr(layer, 'layer', None)
        if isinstance(norm, tf_keras.layers.BatchNormalization):
            norm.trainable = False
    return annotated, quantized


def _reserve_names(names: list[str]) -> None:
    """Keeps tf_keras from calling a layer that TFMOT adds, such as the parts of a separable
    convolution, by a name of the model: 'conv2d' is what Keras calls a user's first one, too."""
    import tf_keras

    def number(name: str, stem: str) -> int:
        found = re.fullmatch(rf'(?:quantize_annotate_)?{stem}(?:_(\d+))?', name)
        return int(found[1] or 0) if found else -1

    for stem, make in (('conv2d', lambda: tf_keras.layers.Conv2D(1, 1)),
                       ('depthwise_conv2d', lambda: tf_keras.layers.DepthwiseConv2D(1))):
        last = max(number(name, stem) for name in names)
        while number(make().name, stem) < last:
            pass


class _Annotation:
    """Says of each layer of a tf_keras model how it is rounded."""

    def __init__(self, quantization: Any):
        self._annotate = quantization.quantize_annotate_layer
        self._configs = _configs(quantization)

    def annotate(self, model: Any) -> Any:
        """Returns an annotated copy; ValueError names a layer that has no int8 form."""
        import tf_keras

        values: dict[str, list[np.ndarray]] = {}
        annotated = tf_keras.models.clone_model(
            model, clone_function=lambda layer: self._layer(layer, values))
        for layer in annotated.layers:
            inner = getattr(layer, 'layer', layer)
            if inner.weights:
                inner.set_weights(values[inner.name])
        return annotated

    def _layer(self, layer: Any, values: dict[str, list[np.ndarray]]) -> Any:
        import tf_keras

        kind = type(layer).__name__
        _check_supported(layer)
        if _is_relu(layer) and _follows_kernel(layer):
            return self._annotate(tf_keras.layers.Activation('linear', name=layer.name))
        config, values[layer.name] = layer.get_config(), layer.get_weights()
        if kind == 'BatchNormalization' and _folded_dense(layer) is not None:
            return self._annotate(tf_keras.layers.Activation('linear', name=layer.name))
        consumers = [node.outbound_layer for node in layer.outbound_nodes]
        if kind == 'Dense' and len(consumers) == 1 and _folded_dense(consumers[0]) is layer:
            config, values[layer.name] = _with_norm(layer, consumers[0])
        if _is_affine(layer):
            config, values[layer.name] = _depthwise(layer)
            made = tf_keras.layers.DepthwiseConv2D(**config)
            # The normalization of pixels is not learnt.
            made.trainable = bool(layer.trainable_weights)
        else:
            made = type(layer).from_config(config)
        if len(consumers) == 1 and _is_relu(consumers[0]) and _follows_kernel(consumers[0]):
            made.activation = tf_keras.activations.relu
        if kind in _OUTPUT_ROUNDED:
            return self._annotate(made, self._configs['OutputConfig']())
        if kind in _UNCHANGED:
            return self._annotate(made, self._configs['UnchangedConfig']())
        return self._annotate(made)


def _check_supported(layer: Any) -> None:
    kind = type(layer).__name__

    def refuse(reason: str) -> None:
        raise ValueError(f"layer '{layer.name}' ({kind}) {reason}, so that the model cannot be "
                         'fine-tuned for int8; post-training quantization may do')

    if layer.compute_dtype != 'float32':
        refuse(f'computes in {layer.compute_dtype} and not in float32')
    if kind not in _KNOWN | _OUTPUT_ROUNDED | _UNCHANGED | _AFFINE:
        refuse('has no form for quantization-aware training')
    if len(layer.inbound_nodes) > 1:
        refuse(f'is called {len(layer.inbound_nodes)} times, which TFMOT does not support')
    name = getattr(getattr(layer, 'activation', None), '__name__', 'linear')
    if name not in _ACTIVATIONS:
        refuse(f"has activation '{name}', which TFMOT does not support")
    if _is_affine(layer) and len(layer.input_shape) != 4:
        refuse('works on no image and follows no dense layer')


def _is_affine(layer: Any) -> bool:
    """Whether a layer becomes a convolution of 1x1."""
    kind = type(layer).__name__
    return kind in ('Rescaling', 'Normalization') or (
        kind == 'BatchNormalization' and not _folds(layer))


def _folds(layer: Any) -> bool:
    """Whether a batch normalization becomes part of the convolution or dense layer before it."""
    producer = layer.inbound_nodes[0].inbound_layers
    return (type(producer).__name__ in _FOLDING and len(producer.outbound_nodes) == 1
            and producer.activation.__name__ == 'linear')


def _folded_dense(layer: Any) -> Any:
    """The dense layer whose batch normalization a layer is, else None.

    TFLite has one scale for a dense kernel: that of batch normalization, one a channel, must be in
    the kernel before it is rounded.
    """
    if type(layer).__name__ != 'BatchNormalization' or not _folds(layer):
        return None
    producer = layer.inbound_nodes[0].inbound_layers
    return producer if type(producer).__name__ == 'Dense' else None


def _with_norm(dense: Any, norm: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Config and weights of a dense layer with the batch normalization that follows it."""
    offset, scale = _line(norm)
    kernel, *bias = dense.get_weights()
    return dense.get_config() | {'use_bias': True}, [
        kernel * scale, offset + (bias[0] if bias else 0) * scale]


def _is_relu(layer: Any) -> bool:
    """Whether a layer is max(x, 0), without a bound or a slope."""
    if type(layer).__name__ == 'Activation':
        return layer.activation.__name__ == 'relu'
    return type(layer).__name__ == 'ReLU' and layer.max_value is None and not (
        layer.negative_slope or layer.threshold)


def _follows_kernel(layer: Any) -> bool:
    """Whether a layer can be the activation of the convolution or dense layer before it.

    TFMOT would leave the kernel of a convolution without rounding that a ReLU follows directly.
    """
    producer = layer.inbound_nodes[0].inbound_layers
    if isinstance(producer, list) or len(producer.outbound_nodes) != 1:
        return False
    return _is_affine(producer) or (type(producer).__name__ in _FOLDING
                                    and producer.activation.__name__ == 'linear')


def _depthwise(layer: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Arguments and weights of the 1x1 convolution that a layer x -> scale x + offset is."""
    offset, scale = _line(layer)
    return {'kernel_size': 1, 'name': layer.name}, [scale.reshape(1, 1, -1, 1), offset]


def _line(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """(offset, scale), [C] each, of a layer x -> scale x + offset."""
    zero = tf.zeros([1, *(size or 1 for size in layer.input_shape[1:])])
    offset = np.asarray(layer(zero, training=False))
    scale = np.asarray(layer(zero + 1, training=False)) - offset
    channels = layer.input_shape[-1]
    return offset.reshape(-1, channels)[0], scale.reshape(-1, channels)[0]


def _configs(quantization: Any) -> dict[str, type]:
    """TFMOT's contract for layers that it does not know, by class name."""
    quantizers = quantization.quantizers

    class UnchangedConfig(quantization.QuantizeConfig):
        """Nothing is rounded."""

        def get_weights_and_quantizers(self, layer):
            return []

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_weights(self, layer, quantize_weights):
            pass

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    class OutputConfig(UnchangedConfig):
        """The output is rounded."""

        def get_output_quantizers(self, layer):
            return [quantizers.MovingAverageQuantizer(
                num_bits=8, per_axis=False, symmetric=False, narrow_range=False)]

    return {config.__name__: config for config in (UnchangedConfig, OutputConfig)}
