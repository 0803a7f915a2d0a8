"""Models that nobody wrote, of blocks from [6, 6, C] to [6, 6, C'], drawn by Hypothesis."""
from typing import NamedTuple

import tfprune  # noqa: F401  (before keras)
import keras
from hypothesis import strategies as st
from keras import layers, ops

from composite_layers import Composite, ConvNext, Fuse, InvertedResidual, Stage
from tfprune.testing import randomize

SIZE = 6
MOST = 24  # channels behind a block


class Block(NamedTuple):
    """One block: its name in BLOCKS, a width, which of its forms, and in how many models."""
    name: str
    width: int
    form: int
    nesting: int


class Spec(NamedTuple):
    """All that a model is built from."""
    stem: int
    blocks: tuple[Block, ...]
    flatten: bool
    outputs: int
    seed: int


@keras.saving.register_keras_serializable('random_models')
class Positions(Composite):
    """Adds an embedding of every position."""

    def build(self, shape):
        self.embedding = self.add_weight(shape=(1, *shape[1:]), name='embedding')

    def call(self, inputs):
        return ops.tanh(inputs + self.embedding)


@keras.saving.register_keras_serializable('random_models')
class Outer(Composite):
    """A composite layer in a composite layer, with a scale of its own."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.inner, self.mix = InvertedResidual(width), layers.Dense(width)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name='scale')
        super().build(shape)

    def call(self, inputs):
        return self.mix(ops.gelu(self.inner(inputs))) * self.scale


def convolution(x, width, kernel=1, activation='swish', **options):
    return layers.Conv2D(width, kernel, padding='same', activation=activation, **options)(x)


def one_of(form, *choices):
    return choices[form % len(choices)]


def rows(x):
    return layers.Reshape((SIZE * SIZE, x.shape[-1]))(x)


def maps(x):
    return layers.Reshape((SIZE, SIZE, x.shape[-1]))(x)


def residual(x, width, form):
    y = convolution(convolution(x, width, 3), x.shape[-1])
    return one_of(form, layers.Add(), layers.Subtract(), layers.Average(), layers.Maximum())(
        [x, layers.BatchNormalization()(y)])


def branches(x, width, form):
    several = [convolution(x, width), convolution(x, width + 1, 3),
               layers.MaxPooling2D(3, 1, 'same')(x)]
    return one_of(form, layers.Concatenate(), lambda xs: ops.concatenate(xs[:2], -1))(several)


def inside(x, width, form):
    image = keras.Input((SIZE, SIZE, x.shape[-1]))
    y = layers.PReLU(shared_axes=(1, 2))(convolution(image, width))
    return keras.Model(image, layers.Concatenate()([y, image]))(x)


def shared(x, width, form):
    twice = layers.Conv2D(x.shape[-1], 3, padding='same', activation='tanh')
    return twice(layers.BatchNormalization()(twice(x)))


def excite(x, width, form):
    if form % 2:
        s = layers.Dense(width, activation='relu')(layers.GlobalAveragePooling2D()(x))
        s = layers.Dense(x.shape[-1], activation='sigmoid')(s)
        return x * layers.Reshape((1, 1, x.shape[-1]))(s)
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return x * convolution(convolution(s, width), x.shape[-1], activation='sigmoid')


def glu(x, width, form):
    y = convolution(x, 2 * width, activation=None)
    a, b = one_of(form, ops.split(y, 2, -1), (y[..., :width], y[..., width:]))
    return a * one_of(form // 2, ops.sigmoid, ops.gelu)(b)


def shuffle(x, width, form):
    y = convolution(x, 2 * width)
    y = layers.Reshape((SIZE, SIZE, *one_of(form, (2, width), (width, 2))))(y)
    return layers.Reshape((SIZE, SIZE, 2 * width))(layers.Permute((1, 2, 4, 3))(y))


def c2f(x, width, form):
    y = convolution(x, 2 * width)
    parts = [y[..., :width], y[..., width:]]
    for _ in range(1 + form % 2):
        parts.append(parts[-1] + convolution(parts[-1], width, 3))
    return convolution(layers.Concatenate()(parts), width)


def stacked(x, width, form):
    axis = one_of(form, -1, 1, 3)
    y = ops.stack([convolution(x, width), convolution(x, width, 3)], axis)
    return one_of(form // 3, ops.mean, ops.max, ops.sum)(y, axis)


def moved(x, width, form):
    wide = x.shape[-1]
    return one_of(form, lambda x: ops.roll(x, width, -1), lambda x: ops.flip(x, -1),
                  lambda x: ops.take(x, [(3 * i) % wide for i in range(wide)], -1),
                  lambda x: ops.tile(x, (1, 1, 1, 2)), lambda x: ops.repeat(x, 2, -1),
                  lambda x: x[..., ::-1], lambda x: x[..., 1:])(x)


def padded(x, width, form):
    left, right = form % 2, 1 + width % 2
    y = convolution(x, x.shape[-1] + left + right, 3)
    x = one_of(form // 2, lambda x: ops.pad(x, ((0, 0),) * 3 + ((left, right),)),
               layers.ZeroPadding2D(((0, 0), (left, right)), data_format='channels_first'))(x)
    return layers.Add()([x, y])


def pixel_shuffle(x, width, form):
    y = convolution(x, 4 * width, 3, strides=2)
    shape, order = one_of(form, ((2, 2, width), (1, 3, 2, 4, 5)), ((width, 2, 2), (1, 4, 2, 5, 3)))
    y = layers.Reshape((SIZE // 2, SIZE // 2, *shape))(y)
    return layers.Reshape((SIZE, SIZE, width))(layers.Permute(order)(y))


def dense_maps(x, width, form):
    x = one_of(form, layers.GlobalMaxPooling2D, layers.Flatten)()(x)
    return layers.Reshape((SIZE, SIZE, width))(layers.Dense(SIZE * SIZE * width, 'tanh')(x))


def attention(x, width, form):
    y = rows(layers.LayerNormalization()(x) if form % 2 else x)
    layer = one_of(form // 2, layers.MultiHeadAttention(2, width), layers.MultiHeadAttention(
        3, width, value_dim=2), layers.GroupQueryAttention(width, 4, 2))
    return x + maps(layer(y, y))


def own_attention(x, width, form):
    y = rows(x)
    q, k, v = (layers.Dense(width, name=None)(y) for _ in range(3))
    scores = one_of(form, lambda: ops.matmul(q, ops.transpose(k, (0, 2, 1))),
                    lambda: ops.einsum('bqc,bkc->bqk', q, k), lambda: layers.Dot(2)([q, k]))()
    y = ops.matmul(ops.softmax(scores / width ** .5), v)
    return layers.Add()([x, maps(layers.Dense(x.shape[-1])(y))])


def einsum_dense(x, width, form):
    return one_of(form, layers.EinsumDense('abcd,de->abce', (SIZE, SIZE, width), bias_axes='e'),
                  layers.EinsumDense('...d,de->...e', width, 'tanh'))(x)


def composite(x, width, form):
    wide = x.shape[-1]
    return one_of(form, ConvNext(wide), InvertedResidual(wide), Outer(wide), Positions(wide),
                  lambda x: Fuse(width)(x, other=convolution(x, width), scale=.5),
                  lambda x: Stage(wide)(x)['features'])(x)


def each_row(x, width, form):
    inner = one_of(form, lambda: layers.Conv1D(width, 3, padding='same', activation='tanh'),
                   lambda: layers.Dense(width), layers.BatchNormalization,
                   lambda: layers.GRU(width, return_sequences=True))()
    return layers.TimeDistributed(inner)(x)


def spectral(x, width, form):
    return layers.SpectralNormalization(one_of(form, lambda: layers.Conv2D(
        width, 3, padding='same'), lambda: layers.Dense(width), lambda: layers.DepthwiseConv2D(
        3, padding='same'))())(x)


def recurrent(x, width, form):
    y = one_of(form // 4, layers.Reshape((SIZE, SIZE * x.shape[-1])), lambda x: ops.max(x, 2))(x)
    y = one_of(form, layers.GRU(width, return_sequences=True),
               layers.LSTM(width, return_sequences=True, go_backwards=True),
               layers.Bidirectional(layers.LSTM(width, return_sequences=True)),
               layers.Bidirectional(layers.GRU(width, return_sequences=True), 'sum'))(y)
    y = layers.Reshape((SIZE, 1, y.shape[-1]))(y)
    return one_of(form // 2, layers.UpSampling2D((1, SIZE)), lambda y: y * convolution(
        x, y.shape[-1]))(y)


def activation(x, width, form):
    return one_of(form, layers.LeakyReLU(), layers.PReLU(), layers.ELU(), ops.silu, ops.hard_swish,
                  layers.Activation('mish'), keras.activations.gelu, layers.Softmax(axis=1))(x)


def normalization(x, width, form):
    norm = one_of(form, layers.LayerNormalization, layers.RMSNormalization,
                  lambda: layers.GroupNormalization(1), layers.UnitNormalization,
                  lambda: layers.GroupNormalization(2), lambda: layers.LayerNormalization((2, 3)),
                  lambda: layers.GroupNormalization(-1), layers.BatchNormalization)()
    return norm(convolution(x, 2 * width, 3))


def mixed(x, width, form):
    """What holds its channels together."""
    return one_of(form, lambda x: x * ops.sigmoid(ops.mean(x, -1, keepdims=True)), ops.softmax,
                  lambda x: x[..., ::2])(x)


BLOCKS = {
    'convolution': lambda x, width, form: layers.BatchNormalization()(convolution(x, width, 3)),
    'depthwise': lambda x, width, form: layers.DepthwiseConv2D(
        3, padding='same', depth_multiplier=1 + width % 2, activation='relu6')(x),
    'separable': lambda x, width, form: layers.SeparableConv2D(width, 3, padding='same')(x),
    'grouped': lambda x, width, form: layers.Conv2D(2 * width, 3, padding='same', groups=2)(
        convolution(x, 2 * width)),
    'scale': lambda x, width, form: x * .5 + 1.,
    **{function.__name__: function for function in (
        residual, branches, inside, shared, excite, glu, shuffle, c2f, stacked, moved, padded,
        pixel_shuffle, dense_maps, attention, own_attention, einsum_dense, composite, each_row,
        spectral, recurrent, activation, normalization, mixed)},
}


def _run(x, block):
    if block.nesting:
        image = keras.Input(x.shape[1:])
        return keras.Model(image, _run(image, block._replace(nesting=block.nesting - 1)))(x)
    return BLOCKS[block.name](x, block.width, block.form)


def build(spec):
    """The model, all of its weights noise."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    x = convolution(image, spec.stem)
    for block in spec.blocks:
        x = _run(x, block)
        if x.shape[-1] > MOST:
            x = convolution(x, block.width)
    x = (layers.Flatten if spec.flatten else layers.GlobalAveragePooling2D)()(x)
    outputs = [layers.Dense(3)(x), layers.Dense(2, activation='softmax')(x)][:spec.outputs]
    return randomize(keras.Model(image, outputs), seed=spec.seed)


def specs(most=4):
    """Draws the specs of models of 1 to `most` blocks."""
    blocks = st.builds(Block, st.sampled_from(sorted(BLOCKS)), st.integers(2, 5),
                       st.integers(0, 23), st.sampled_from([0, 0, 0, 1, 2]))
    return st.builds(Spec, st.integers(2, 5), st.lists(
        blocks, min_size=1, max_size=most).map(tuple), st.booleans(), st.integers(1, 2),
        st.integers(0, 99))
