"""Pruning methods by name, and what each may be told; no method is imported before it is used."""
from typing import TYPE_CHECKING, Any

from tfprune.errors import look_up
from tfprune.methods import options as of
from tfprune.registry import Registry

if TYPE_CHECKING:
    from tfprune.methods.base import Method

METHODS: Registry[type['Method']] = Registry({
    'rlal': 'tfprune.methods.rlal:RLAL',
    'amc': 'tfprune.methods.amc:AMC',
    'cacp': 'tfprune.methods.cacp:CACP',
    'autocompress': 'tfprune.methods.autocompress:AutoCompress',
    'n2n': 'tfprune.methods.n2n:N2N',
    'purl': 'tfprune.methods.purl:PuRL',
    'crl': 'tfprune.methods.crl:CRL',
    'ppo_search': 'tfprune.methods.ppo_search:PPOSearch',
    'dense': 'tfprune.methods.controls:Dense',
    'uniform': 'tfprune.methods.controls:Uniform',
    'random': 'tfprune.methods.controls:Random',
    'magnitude': 'tfprune.methods.controls:Magnitude',
    'scratch': 'tfprune.methods.controls:Scratch',
    'random_search': 'tfprune.methods.random_search:RandomSearch',
    'knapsack': 'tfprune.methods.knapsack:Knapsack',
}, needs=dict.fromkeys(('rlal', 'amc', 'cacp', 'n2n', 'purl', 'crl', 'ppo_search'), 'rl'),
    kind='method')
# Of the methods above, until they are imported; each has them in its class, too.
_OPTIONS: dict[str, type[of.Options]] = {
    'rlal': of.RlalOptions, 'amc': of.AmcOptions, 'cacp': of.CacpOptions,
    'autocompress': of.AutoCompressOptions, 'n2n': of.N2nOptions, 'purl': of.PurlOptions,
    'crl': of.CrlOptions, 'ppo_search': of.PpoSearchOptions, 'magnitude': of.MagnitudeOptions,
    'random_search': of.RandomSearchOptions,
    **{name: of.NoOptions for name in ('dense', 'uniform', 'random', 'scratch', 'knapsack')}}

# What others have to beat at the same budget; each of these classes says so, too.
CONTROLS = frozenset({'uniform', 'random', 'magnitude', 'random_search', 'knapsack'})


def options_of(name: str) -> type[of.Options]:
    """The class of a method's options."""
    return METHODS[name].Options if METHODS.is_imported(name) else _OPTIONS[name]


def make_method(name: str, options: Any = None) -> 'Method':
    """A method, which has not started; ValueError with the right names for a wrong one."""
    return look_up('method', name, METHODS)(options)
