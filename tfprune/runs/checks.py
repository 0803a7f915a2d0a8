"""What is wrong with a configuration, before anything is made of it."""
from tfprune.config import LIMITS
from tfprune.methods.base import Method
from tfprune.methods.names import make_method
from tfprune.runs.config import Config


def checked_method(config: Config) -> Method:
    """The method of a configuration, not started; ValueError where it cannot work with the rest."""
    method, limits = make_method(config.method, config.options), tuple(LIMITS)
    method.check(config.epochs)
    if method.needs_budget and not config.costs.limits:
        raise ValueError(f'method {config.method!r} needs a budget: '
                         f'--{", --".join(limits[:-1])} or --{limits[-1]}.')
    if method.decides_first and config.models.initial_weights:
        raise ValueError(f'method {config.method!r} trains from random weights; initial_weights '
                         f'must be empty, received {config.models.initial_weights!r}.')
    if method.leaves_zeros and 'int8_qat' in config.export.quantizations:
        raise ValueError(f'method {config.method!r} makes weights zero: quantize must not have '
                         'int8_qat, whose fine-tuning would move them; received '
                         f'{config.export.quantize!r}.')
    return method
