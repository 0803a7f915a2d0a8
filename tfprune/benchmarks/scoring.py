"""What it costs to score a sub-network, against the dense network; memory over many of them.

Sub-networks: `uniform` widths at half of the MACs and `random` ones, drawn as random actions draw
them under that budget, each also with widths that are multiples of 8; `dense` is the same scorer
with all masks open, what ratios refer to; `evaluator` is training.Evaluator on the same images.
"""
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.benchmarks.apart import call_apart
from tfprune.benchmarks.memory import resident
from tfprune.benchmarks.training_step import build
from tfprune.benchmarks.turns import cores, in_turns, machine, quartiles, ratios, spread
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.costs.proportional import uniform_widths
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.masks import Masks, open_masks, select_channels
from tfprune.search.agents import play, random_policy
from tfprune.search.environment import PruningEnv
from tfprune.search.scoring import Network, SubnetworkScorer
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import ChannelGroups, trace_groups
from tfprune.training.batch_norm import use_fused_batch_norm
from tfprune.training.distribution import make_strategy
from tfprune.training.evaluation import Evaluator

OPTIONS = ('models', 'score_images', 'score_batch_size', 'subnetworks', 'score_rounds', 'sliced',
           'memory_subnetworks', 'memory_images', 'threads')
KINDS = ('uniform', 'random', 'uniform, multiples of 8', 'random, multiples of 8')
RATIO, MULTIPLE = 0.5, 8
REPORTED = (100, 500, 1000)  # sub-networks after which memory is read


def rows(only: Sequence[str] = (), *, models: Sequence[str] = ('resnet20', 'resnet56'),
         score_images: int = 2000, score_batch_size: int = 500, subnetworks: int = 3,
         score_rounds: int = 4, sliced: bool = True, memory_subnetworks: int = 1000,
         memory_images: int = 32, threads: int = 0) -> Iterator[dict[str, Any]]:
    """Yields a row a kind of sub-network for each model, then one of memory for the first.

    Args:
        only: 'time' or 'memory'.
        models: names of MODELS, on images of 32x32.
        score_images, score_batch_size: as in a run.
        subnetworks: random ones of each kind.
        score_rounds: turns of each.
        sliced: whether weights are sliced to the kept channels; else masks over the full network.
        memory_subnetworks, memory_images: scored one after another in a process of its own, on how
            many images.
        threads: within an operation, and cores; 0 is all.
    """
    for name in only:
        if name not in ('time', 'memory'):
            raise ValueError(f"Unknown row '{name}'. Available: memory, time")
    tf.config.experimental.enable_op_determinism()
    with cores(threads) as number:
        where = {'threads': number, 'sliced': sliced, **machine()}
        for model in models:
            if not only or 'time' in only:
                for row in time_rows(model, score_images, score_batch_size, subnetworks,
                                     score_rounds, sliced):
                    yield {'row': 'time', 'model': model, 'images': score_images, **where, **row}
                keras.backend.clear_session()
        if memory_subnetworks and (not only or 'memory' in only):
            found = call_apart(memory_row, threads=threads, model=models[0], sliced=sliced,
                               count=memory_subnetworks, images=memory_images)
            yield {'row': 'memory', 'model': models[0], 'images': memory_images, **where, **found}


def time_rows(model: str, images: int, batch_size: int, subnetworks: int, rounds: int,
              sliced: bool) -> Iterator[dict[str, Any]]:
    """Seconds of scoring, in turns; of random sub-networks all ratios together."""
    strategy = make_strategy(1)
    dense = fused(model, strategy)
    groups = trace_groups(dense).without_residual()
    batches = noise_batches(images, batch_size)
    scorer = make_scorer(dense, groups, strategy, batches, sliced)
    evaluate = Evaluator(dense, strategy)
    widths = {kind: some_widths(dense, groups, kind, subnetworks) for kind in KINDS}
    cost = CostModel(dense, groups)
    calls: dict[str, Callable[[], Any]] = {
        'dense': functools.partial(scorer, open_masks(groups)),
        'evaluator': functools.partial(evaluate, batches)}
    for kind, drawn in widths.items():
        for place, each in enumerate(drawn):
            calls[f'{kind} #{place}'] = functools.partial(
                scorer, select_channels(dense, groups, each))
    turns = {name: _timed(call) for name, call in calls.items()}
    in_turns(turns, 1)
    traced = traces(scorer)
    times = in_turns(turns, rounds)
    for name in ('dense', 'evaluator'):
        yield {'kind': name, 'macs_ratio': 1.0, **quartiles('seconds', times[name]),
               **ratios(times[name], times['dense']), 'rounds': rounds}
    for kind, drawn in widths.items():
        seen = np.stack([times[f'{kind} #{place}'] for place in range(len(drawn))])
        macs = [cost(each).macs / cost.dense.macs for each in drawn]
        yield {'kind': kind, 'macs_ratio': float(np.mean(macs)), 'subnetworks': len(drawn),
               **quartiles('seconds', seen), **ratios(seen, times['dense']),
               'worst_ratio': float(np.median(seen / times['dense'], axis=1).max()),
               'rounds': rounds, 'traces_while_timed': traces(scorer) - traced}


def memory_row(model: str, sliced: bool, count: int, images: int) -> dict[str, Any]:
    """Resident bytes while `count` different random sub-networks are scored."""
    strategy = make_strategy(1)
    dense = fused(model, strategy)
    groups = trace_groups(dense).without_residual()
    scorer = make_scorer(dense, groups, strategy, noise_batches(images, images), sliced)
    scorer(open_masks(groups))
    drawn = different_masks(groups, count)
    traced, begun = traces(scorer), time.perf_counter()
    bytes_after = {'0': resident('VmRSS')}
    for number, masks in enumerate(drawn, start=1):
        scorer(masks)
        if number in REPORTED or number == count:
            bytes_after[str(number)] = resident('VmRSS')
    return {'subnetworks': count, 'resident_bytes': bytes_after,
            'new_traces': traces(scorer) - traced, 'seconds': time.perf_counter() - begun}


def make_scorer(model: keras.Model, groups: ChannelGroups, strategy: tf.distribute.Strategy,
                images: tf.data.Dataset, sliced: bool) -> SubnetworkScorer:
    """The scorer that rewards are measured with, or its masked reference."""
    network: Network
    with strategy.scope():
        if sliced:
            network = Subnetwork(model, groups)
        else:
            network = MaskedNetwork(model, groups)
    return SubnetworkScorer(network, strategy, images)


class MaskedNetwork:
    """The full network with gates, normalized by each batch; moves the model's statistics."""

    def __init__(self, model: keras.Model, groups: ChannelGroups):
        self._gated = insert_gates(model, groups)
        self.set_masks = self._gated.set_masks

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self._gated.model(images, training=True)


def fused(model: str, strategy: tf.distribute.Strategy) -> keras.Model:
    """The model as a run has it, with random weights."""
    dense = build(model, 'float32', strategy)
    use_fused_batch_norm(dense)
    return dense


def noise_batches(images: int, batch_size: int) -> tf.data.Dataset:
    """Batches of (uint8 pixels [B, 32, 32, 3], int32 labels [B])."""
    rng = np.random.default_rng(0)
    return tf.data.Dataset.from_tensor_slices((
        rng.integers(0, 256, (images, 32, 32, 3), np.uint8),
        rng.integers(0, 10, images, np.int32))).batch(batch_size)


def some_widths(model: keras.Model, groups: ChannelGroups, kind: str, count: int
                ) -> list[dict[str, int]]:
    """Widths within the budget: the uniform ones, or `count` that random actions end at."""
    cost = CostModel(model, groups)
    budget = Budget(groups, cost, {'macs': RATIO},
                    width_multiple=MULTIPLE if kind.endswith(str(MULTIPLE)) else 1)
    if kind.startswith('uniform'):
        return [budget.as_dict(uniform_widths(budget))]
    envs = [PruningEnv(groups, cost, lambda _: 0.0, budget=budget) for _ in range(count)]
    play(envs, random_policy(envs[0], seed=0))
    return [env.widths for env in envs]


def different_masks(groups: ChannelGroups, count: int) -> Iterator[Masks]:
    """Masks of random widths in 1 … C_g and random channels, `count` different width vectors."""
    rng = np.random.default_rng(0)
    seen: set[tuple[int, ...]] = set()
    while len(seen) < count:
        widths = tuple(int(rng.integers(1, dense + 1)) for dense in groups.values())
        if widths in seen:
            if len(seen) >= np.prod(list(groups.values()), dtype=float):
                raise ValueError(f'subnetworks: there are no {count} different ones')
            continue
        seen.add(widths)
        yield {name: rng.permutation(groups[name]) < width for name, width in zip(groups, widths)}


def traces(scorer: Any) -> int:
    """How often the tf.functions of an object have been traced."""
    names = {*vars(scorer), *itertools.chain(*map(vars, type(scorer).__mro__))}
    counts = (getattr(getattr(scorer, name, None), 'experimental_get_tracing_count', None)
              for name in names if not name.startswith('__'))
    return sum(count() for count in counts if count is not None)


def _timed(call: Callable[[], Any]) -> Callable[[], float]:
    def turn() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return turn


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns times and memory as Markdown tables."""
    lines = ['| model | sub-network | MACs | s (quartiles) | of dense (quartiles) | worst |',
             '|---|---|---:|---:|---:|---:|']
    for row in found:
        if row['row'] == 'time':
            worst = f"{row['worst_ratio']:.3f}" if 'worst_ratio' in row else ''
            lines.append(f"| {row['model']} | {row['kind']} | {row['macs_ratio']:.1%} | "
                         f"{spread(row, 'seconds')} | {spread(row, 'ratio', '.3f')} | {worst} |")
    lines = lines if len(lines) > 2 else []
    memory = [row for row in found if row['row'] == 'memory']
    if memory:
        lines += ['', '| model | sub-networks scored | resident, MiB | new traces |',
                  '|---|---:|---:|---:|']
        lines += [f"| {row['model']} | {number} | {size / 2 ** 20:.0f} | {row['new_traces']} |"
                  for row in memory for number, size in row['resident_bytes'].items()]
    return '\n'.join(lines).strip()
