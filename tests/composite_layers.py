"""Layers of a user's own whose calls are made of Keras layers and keras.ops, and models of them."""
import tfprune  # noqa: F401  (before keras)
import keras
from keras import layers, ops

_registered = keras.saving.register_keras_serializable('composite_layers')


class Composite(layers.Layer):
    """Of one width, which its config has."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def get_config(self):
        return {**super().get_config(), 'width': self.width}


@_registered
class InvertedResidual(Composite):
    """x + project(depthwise(expand(x))), its layers built by hand."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self._expand = layers.Conv2D(3 * width, 1, use_bias=False)
        self.norm = layers.BatchNormalization(name='normalize')
        self.depthwise = layers.DepthwiseConv2D(3, padding='same')
        self.project = layers.Conv2D(width, 1)

    def build(self, shape):
        self._expand.build(shape)
        wide = (*shape[:-1], 3 * self.width)
        self.norm.build(wide)
        self.depthwise.build(wide)
        self.project.build(wide)
        self.built = True

    def call(self, inputs, training=None):
        x = ops.relu6(self.norm(self._expand(inputs), training=training))
        return inputs + self.project(self.depthwise(x))


@_registered
class ConvNext(Composite):
    """x + gamma · down(dropout(up(depthwise(x))))."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.depthwise = layers.DepthwiseConv2D(3, padding='same')
        self.norm = layers.BatchNormalization()
        self.up, self.down = layers.Dense(2 * width, activation='gelu'), layers.Dense(width)
        self.dropout = layers.Dropout(.4)

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer='ones', name='gamma')
        super().build(shape)

    def call(self, inputs, training=None):
        x = self.up(self.norm(self.depthwise(inputs), training=training))
        return inputs + self.gamma * self.down(self.dropout(x, training=training))


@_registered
class Stage(Composite):
    """Two blocks in a list, and what they pool to."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.blocks = [ConvNext(width), ConvNext(width)]

    def call(self, inputs):
        x = inputs
        for block in self.blocks:
            x = block(x)
        return {'features': x, 'pooled': ops.mean(x, (1, 2))}


@_registered
class InInference(Composite):
    """Its normalization and its dropout are in inference mode always."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.conv, self.norm = layers.Conv2D(width, 3), layers.BatchNormalization()
        self.dropout = layers.Dropout(.9)

    def call(self, inputs):
        x = self.norm(self.conv(inputs), training=False)
        return self.dropout(ops.relu(x), training=False)


@_registered
class Patches(Composite):
    """Patches as tokens behind a class token, with position embeddings: 8x8 pixels to [5, width].
    """

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.project = layers.Conv2D(width, 4, 4)

    def build(self, shape):
        self.project.build(shape)
        self.token = self.add_weight(shape=(1, 1, self.width), name='token')
        self.positions = self.add_weight(shape=(5, self.width), name='positions')
        self.built = True

    def call(self, inputs):
        x = self.project(inputs)
        batch = ops.shape(x)[0]
        token = ops.broadcast_to(self.token, (batch, 1, self.width))
        x = ops.concatenate([token, ops.reshape(x, (batch, -1, self.width))], axis=1)
        return x + self.positions


@_registered
class Fuse(Composite):
    """Two tensors, one of them by its name, and a number."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.left, self.right = layers.Conv2D(width, 1), layers.Conv2D(width, 3, padding='same')

    def call(self, inputs, other=None, scale=1.):
        return ops.relu(self.left(inputs) * scale + self.right(other))


def _classifier(image, x):
    if len(x.shape) > 2:
        pool = {3: layers.GlobalAveragePooling1D, 4: layers.GlobalAveragePooling2D}[len(x.shape)]
        x = pool(name='pool')(x)
    return keras.Model(image, layers.Dense(3, name='logits')(x), name='classifier')


def _stem(width=5):
    image = keras.Input((8, 8, 3), name='image')
    return image, layers.Conv2D(width, 3, padding='same', name='stem')(image)


def inverted_residual():
    image, x = _stem()
    return _classifier(image, InvertedResidual(5, name='block')(x))


def convnext():
    image, x = _stem()
    return _classifier(image, layers.Conv2D(7, 1, name='last')(ConvNext(5, name='block')(x)))


def stage():
    image, x = _stem()
    made = Stage(5, name='stage')(x)
    pooled = layers.GlobalMaxPooling2D(name='max')(made['features'])
    return _classifier(image, layers.Concatenate(name='join')([pooled, made['pooled']]))


def shared():
    image, x = _stem()
    block = ConvNext(5, name='block')
    return _classifier(image, block(block(x)))


def in_inference():
    image, x = _stem()
    return _classifier(image, InInference(7, name='block')(x))


def patches():
    image = keras.Input((8, 8, 3), name='image')
    x = Patches(11, name='patches')(image)
    return _classifier(image, layers.Dense(7, activation='relu', name='hidden')(x))


def nested():
    inner = keras.Input((8, 8, 5))
    block = keras.Model(inner, InvertedResidual(5, name='block')(inner), name='inner')
    image, x = _stem()
    return _classifier(image, block(x))


def fused():
    image, x = _stem()
    y = layers.Conv2D(7, 1, name='other')(image)
    return _classifier(image, Fuse(11, name='fuse')(x, other=y, scale=.5))


# Name -> (the model, its prunable groups, those of them that are residual), by hand.
MODELS = {
    'inverted_residual': (inverted_residual, {'stem': 5, 'block/expand': 15}, {'stem'}),
    'convnext': (convnext, {'stem': 5, 'block/up': 10, 'last': 7}, {'stem'}),
    'stage': (stage, {'stem': 5, 'stage/blocks_0/up': 10, 'stage/blocks_1/up': 10}, {'stem'}),
    'shared': (shared, {'stem': 5, 'block/up': 10}, {'stem'}),
    'in_inference': (in_inference, {'stem': 5, 'block/conv': 7}, set()),
    'patches': (patches, {'patches/project': 11, 'hidden': 7}, set()),
    'nested': (nested, {'stem': 5, 'inner/block/expand': 15}, {'stem'}),
    'fused': (fused, {'stem': 5, 'other': 7, 'fuse/left': 11}, {'fuse/left'}),
}
