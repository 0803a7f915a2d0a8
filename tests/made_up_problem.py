"""A search whose accuracy is a formula: ResNet-20's groups and costs, no image."""
import functools

import numpy as np

from tfprune.benchmarks.known_optimum import AdditiveAccuracy, Knapsack, resnet
from tfprune.methods.names import make_method, options_of
from tfprune.pruning.masks import widths_of
from tfprune.search.problem import Problem
from tfprune.training.options import Epochs
from tfprune.training.seeding import set_seed


@functools.cache
def searched(seed=1, macs=0.5):
    """(model, groups, cost model, budget, accuracy of widths, the highest inside the budget)."""
    model, groups, costs, budget = resnet('resnet20', macs=macs)
    drawn = AdditiveAccuracy.draw(budget.dense_widths, seed, 'static', 1)
    optimum = float(drawn(Knapsack(budget).best(drawn, 0), 0))
    return model, groups, costs, budget, lambda widths: float(drawn(np.array(widths), 0)), optimum


def made_up_problem(**epochs):
    """A Problem whose score is that formula, of so many epochs of each phase."""
    model, groups, costs, budget, accuracy, _ = searched()

    def score(masks):
        return accuracy(list(widths_of(masks).values()))

    return Problem(model, groups, costs, budget, epochs=Epochs(**epochs), score=score)


def play_rounds(method, first, last):
    """Results of these rounds, the random streams of each set as a run sets them."""
    results = []
    for round_ in range(first, last):
        set_seed(100 + round_, method.problem.model)
        results.append(method.search(round_))
    return results


def started(name, problem, **options):
    """A method that has started on a problem."""
    method = make_method(name, options_of(name)(**options))
    method.start(problem)
    return method
