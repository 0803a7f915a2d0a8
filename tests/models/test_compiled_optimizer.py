"""What a compiled optimizer says of its learning rate."""
import tfprune  # noqa: F401  (before keras)
import keras
import pytest

from tfprune.models.compiled import CompiledOptimizer


@keras.saving.register_keras_serializable('tests')
class Mine(keras.optimizers.SGD):
    """Of no default rate."""

    def __init__(self, learning_rate, **options):
        super().__init__(learning_rate, **options)


@pytest.mark.parametrize('optimizer, usual', [
    (keras.optimizers.Adam(1e-6), 1e-3), (keras.optimizers.SGD(3e-4, momentum=0.9), 1e-2),
    (keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.02)), 1e-3),
    (keras.optimizers.RMSprop(keras.optimizers.schedules.CosineDecay(0.1, 5)), 1e-3),
    (Mine(0.25), 0.25)])
def test_the_usual_rate_is_the_default_of_its_class(optimizer, usual):
    found = CompiledOptimizer.from_config(keras.optimizers.serialize(optimizer))
    assert found.usual_rate == pytest.approx(usual)
