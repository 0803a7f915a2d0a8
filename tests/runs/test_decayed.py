"""What the alignment that decays to zero leaves of the dense model, just before surgery."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from bright_pictures import BATCH, CLASSES, images
from light_export import light_export


@pytest.mark.slow
def test_the_dense_model_answers_as_the_pruned_one(tmp_path):
    """Its batch-norm statistics, too, are of what the decay has left."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = layers.Rescaling(1 / 4)(image)
    for name, width in (('a', 16), ('b', 24)):
        x = layers.Conv2D(width, 3, use_bias=False, name=name)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras.Model(image, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))
    with light_export():
        pruned = tfprune.train_and_prune(
            model=model, train_data=images(20 * BATCH, 0), reward_data=images(64, 1),
            test_data=images(64, 2), macs=.4, run_dir=tmp_path / 'run', progress=False,
            warmup_epochs=0, random_epochs=1, joint_epochs=1, alignment_epochs=1,
            fine_tune_epochs=0, learning_rate=.05, batch_size=BATCH, lr_warmup_epochs=0,
            rlal=dict(episodes_per_epoch=4, comparison_episodes=0, random_reference_episodes=0,
                      context_updates=1))
    dense = keras.models.load_model(tmp_path / 'run/dense.keras')
    x = np.concatenate([x for x, _ in images(64, 2)])
    ours, theirs = (keras.ops.softmax(each(x)).numpy() for each in (dense, pruned))
    assert pruned.count_params() < dense.count_params()
    assert np.abs(ours - theirs).max() < .1
