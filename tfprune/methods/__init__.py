"""Pruning methods by name.

To add one: a file with a subclass of `Method`, a line in METHODS, a flagfile. The test that runs
every entry of METHODS says when it is done.
"""
from tfprune.config import LIMITS, Config
from tfprune.errors import look_up
from tfprune.methods.amc import AMC
from tfprune.methods.autocompress import AutoCompress
from tfprune.methods.base import Decision, EpochResult, Method, Problem
from tfprune.methods.cacp import CACP
from tfprune.methods.controls import Dense, Magnitude, Random, Scratch, Uniform
from tfprune.methods.crl import CRL
from tfprune.methods.n2n import N2N
from tfprune.methods.purl import PuRL
from tfprune.methods.rlal import RLAL

__all__ = ['METHODS', 'Decision', 'EpochResult', 'Method', 'Problem', 'make_method']

METHODS: dict[str, type[Method]] = {
    'rlal': RLAL,
    'amc': AMC,
    'cacp': CACP,
    'autocompress': AutoCompress,
    'n2n': N2N,
    'purl': PuRL,
    'crl': CRL,
    'dense': Dense,
    'uniform': Uniform,
    'random': Random,
    'magnitude': Magnitude,
    'scratch': Scratch,
}


def check_method(name: str) -> type[Method]:
    """The class of a method; ValueError with the right names for a wrong one."""
    return look_up('method', name, METHODS)


def check_configuration(config: Config) -> None:
    """ValueError where the method cannot work with the rest of the configuration."""
    method = check_method(config.method)
    method.check(config)
    names = tuple(LIMITS)
    if method.needs_budget(method.parse(config)) and not config.budgets:
        raise ValueError(f'method {config.method!r} needs a budget: '
                         f'--{", --".join(names[:-1])} or --{names[-1]}.')
    if method.decides_first and config.initial_weights:
        raise ValueError(f'method {config.method!r} trains from random weights; '
                         f'initial_weights must be empty, received {config.initial_weights!r}.')


def make_method(problem: Problem) -> Method:
    """The method that the problem's config names."""
    return check_method(problem.config.method)(problem)
