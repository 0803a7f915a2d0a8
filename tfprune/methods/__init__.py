"""Pruning methods by name.

To add one: a file with a subclass of `Method`, a line in METHODS, a flagfile. The test that runs
every entry of METHODS says when it is done.
"""
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
    if name not in METHODS:
        raise ValueError(f'Unknown method {name!r}. Available: {", ".join(sorted(METHODS))}')
    return METHODS[name]


def make_method(problem: Problem) -> Method:
    """The method that the problem's config names."""
    return check_method(problem.config.method)(problem)
