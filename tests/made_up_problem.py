"""A search whose accuracy is a formula: ResNet-20's groups and costs, no image."""
import contextlib
import functools

import numpy as np

from tfprune.benchmarks.known_optimum import AdditiveAccuracy, Knapsack, resnet
from tfprune.config import Config
from tfprune.methods import Problem
from tfprune.pruning.masks import widths_of


@functools.cache
def searched(seed=1, macs=0.5):
    """(model, groups, cost model, budget, accuracy of widths, the highest inside the budget)."""
    model, groups, costs, budget = resnet('resnet20', macs=macs)
    drawn = AdditiveAccuracy.draw(budget.dense_widths, seed, 'static', 1)
    optimum = float(drawn(Knapsack(budget).best(drawn, 0), 0))
    return model, groups, costs, budget, lambda widths: float(drawn(np.array(widths), 0)), optimum


def made_up_problem(options, **changes):
    """A Problem whose score is that formula."""
    model, groups, costs, budget, accuracy, _ = searched()

    def score(masks):
        return accuracy(list(widths_of(masks).values()))

    return Problem(Config(macs=0.5, method_options=options, **changes), model, groups, costs,
                   budget, score, (), contextlib.nullcontext)
