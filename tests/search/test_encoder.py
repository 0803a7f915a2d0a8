"""What actor and critic make of an observation."""
import tfprune  # noqa: F401  (before tensorflow)
import numpy as np
import tensorflow as tf

from tfprune.search.agents.encoder import Encoder, StepTable

Z = 3


def test_a_table_has_a_number_a_step_and_what_z_adds_to_it():
    table = StepTable(3, 2)
    observations = np.array([[1 / 3, .7, .2, -.4], [1, .1, .5, .6]], np.float32)
    told = np.array([[1, 0, 0, .2, 0, 0, -.4, 0, 0], [0, 0, 1, 0, 0, .5, 0, 0, .6]], np.float32)
    np.testing.assert_allclose(table(observations), told)
    np.testing.assert_allclose(StepTable.from_config(table.get_config())(observations), told)
    np.testing.assert_allclose(StepTable(3, 0)(observations[:, :2]), told[:, :3])


def test_z_modulates_and_changes_nothing_at_first():
    encoder, plain_one = Encoder(4, Z, (6, 5)), Encoder(4, 0, (6, 5))
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(2, 7)).astype(np.float32)
    features[:, 0] = .25, .5  # the first and the second step
    z = rng.uniform(-1, 1, (2, Z)).astype(np.float32)
    hidden = encoder(np.concatenate([features, z], 1))
    assert hidden.shape == (2, 5)
    plain_one(features)
    plain_one.set_weights(encoder.get_weights()[:4])
    np.testing.assert_allclose(hidden, plain_one(features), atol=1e-6)
    copy = Encoder.from_config(encoder.get_config())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(np.concatenate([features, z], 1)) ** 2)
    gradients = tape.gradient(loss, encoder.trainable_weights)
    assert len(gradients) == 8 and all(np.abs(g).max() > 0 for g in gradients)
    for weight, gradient in zip(encoder.trainable_weights, gradients):
        weight.assign_sub(gradient)
    # (1 + gamma(z)) (W h + b) + beta(z), by hand.
    w, b, w2, b2, m, c, m2, c2 = encoder.get_weights()
    h = np.concatenate([features, np.eye(4)[:2]], 1)
    for kernel, bias, film, shift in ((w, b, m, c), (w2, b2, m2, c2)):
        gamma, beta = np.split(z @ film + shift, 2, axis=1)
        h = np.tanh((1 + gamma) * (h @ kernel + bias) + beta)
    np.testing.assert_allclose(encoder(np.concatenate([features, z], 1)), h, atol=1e-5)
    copy(np.concatenate([features, z], 1))
    assert [x.shape for x in copy.get_weights()] == [x.shape for x in encoder.get_weights()]
