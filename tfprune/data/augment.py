"""Random shift and flip of whole batches, as a function of a seed."""

import tensorflow as tf


def shift_and_flip(images, rows, cols, flips, fill):
    """Shifted and mirrored images of the same size.

    out[b, y, x] = in[b, y + rows[b], x' + cols[b]], x' = W - 1 - x if flips[b] else x; outside of
    the image it is `fill`. Equal to padding by p with `fill`, cropping at (rows + p, cols + p), and
    mirroring the crop.

    Args:
        images: uint8 [B, H, W, C].
        rows: int32 [B], offset in pixels.
        cols: int32 [B], offset in pixels.
        flips: bool [B].
        fill: uint8 [C].

    Returns:
        uint8 [B, H, W, C].
    """
    batch, height, width, channels = tf.unstack(tf.shape(images))
    y = rows[:, None] + tf.range(height)
    x = tf.range(width)
    x = cols[:, None] + tf.where(flips[:, None], width - 1 - x, x)
    inside = (((y >= 0) & (y < height))[:, :, None]
              & ((x >= 0) & (x < width))[:, None, :])
    # One gather of pixels from a flat list that ends in `fill`: no padded copy, no second pass.
    image = tf.range(batch)[:, None, None] * (height * width)
    index = tf.where(inside, image + y[:, :, None] * width + x[:, None, :], batch * height * width)
    pixels = tf.concat([tf.reshape(images, [-1, channels]), fill[None]], axis=0)
    return tf.ensure_shape(tf.gather(pixels, index), images.shape)


def random_shift_and_flip(images, seed, *, max_shift: int, flip: bool, fill):
    """`shift_and_flip` with offsets uniform in -max_shift … max_shift and, if `flip`, fair coins.

    Args:
        images: uint8 [B, H, W, C].
        seed: integer [2]; the result is a function of images and seed.
        max_shift: pixels.
        flip: whether to mirror left and right.
        fill: uint8 [C].

    Returns:
        uint8 [B, H, W, C].
    """
    batch = tf.shape(images)[0]
    seeds = tf.random.split(seed, 2)
    shifts = tf.random.stateless_uniform(
        [2, batch], seeds[0], -max_shift, max_shift + 1, tf.int32)
    coins = tf.random.stateless_uniform([batch], seeds[1], 0, 2, tf.int32)
    flips = (coins == 1) if flip else tf.zeros([batch], tf.bool)
    return shift_and_flip(images, shifts[0], shifts[1], flips, fill)
