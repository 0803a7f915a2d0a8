"""What suites of trained weights begin with."""
from collections.abc import Sequence

import keras

from tfprune.data.image_data import ImageData
from tfprune.models.building import DTYPE_POLICIES, build_model
from tfprune.models.initial_weights import load_initial_weights


def check_asked(suite: str, only: Sequence[str], kinds: Sequence[str], weights: str) -> None:
    """ValueError for another kind than a suite of trained weights has, or no weights."""
    for name in only:
        if name not in kinds:
            raise ValueError(f'Unknown kind {name!r}. Available: {", ".join(kinds)}')
    if not weights:
        raise ValueError(f'{suite} of trained weights: give --initial_weights')


def trained_model(data: ImageData, model: str, weights: str, dtype: str = 'float32'
                  ) -> keras.Model:
    """A model for these images, with the weights of a file."""
    keras.utils.set_random_seed(0)
    dense = build_model(model, image_shape=data.image_shape, num_classes=data.num_classes,
                        mean=data.mean, std=data.std, dtype_policy=DTYPE_POLICIES[dtype])
    load_initial_weights(dense, weights)
    return dense
