"""What each method may be told: its numbers, their ranges and their meaning.

They stand here and not beside the methods, so that the flags can be made and checked without
TensorFlow. A method that is defined outside of tfprune brings its own: a subclass of `Options`,
named in its class attribute `Options`.
"""
import dataclasses
import math
from typing import Any, ClassVar

from tfprune.config import (COUNT, COUNT_OR_NONE, RATE, SHARE, STRENGTH, Part, Range, field_of)


def _count(default: int, text: str, low: int = 1, high: int = 10_000) -> Any:
    return field_of(default, text, Range(low, high))


def _rate(default: float, text: str) -> Any:
    return field_of(default, text, Range(0, 10, open_low=True))


def _positive(default: float, text: str, high: float) -> Any:
    return field_of(default, text, Range(0, high, open_low=True))


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Of a method; a subclass has fields of int, float, str and bool, all with defaults.

    Raises:
        ValueError, TypeError: name the method and the option, as 'amc.episodes'.
    """


@dataclasses.dataclass(frozen=True)
class NoOptions(Options):
    """Of a method without options of its own."""


@dataclasses.dataclass(frozen=True)
class RlalOptions(Options):
    """RLAL: an agent chooses widths while the weights train."""
    prefix: ClassVar[str] = 'rlal.'
    agent: str = field_of(
        'ppo', 'This agent of TF-Agents acts in the episodes.',
        choices=('ppo', 'sac', 'ddpg', 'random'))
    action: str = field_of(
        'relative',
        "An action is a group's width relative to uniform widths, all of them scaled to the budget "
        "at the end; or its pruning rate, moved into the budget's bounds at once.",
        choices=('relative', 'rate'), before='rate')
    agent_learning_rate: float = field_of(
        0.0, "The agent's actor learns at this rate; 0 takes the agent's own default.", RATE)
    agent_updates: int = field_of(
        20, 'The agent passes this often over the episodes of an epoch.', COUNT)
    agent_epochs: int = field_of(
        3, 'PPO learns from the episodes of the latest epochs, this many.', Range(1, 100),
        before=1)
    episodes_per_epoch: int = field_of(
        8, 'This many episodes are played after each random or joint epoch.', COUNT)
    random_reference_episodes: int = field_of(
        2, 'This many episodes of random actions are played in each joint epoch, as the reference '
        'of the reward curve.', COUNT_OR_NONE)
    rescored_candidates: int = field_of(
        3, 'This many of the best earlier decisions are scored again on the current weights in '
        'each epoch.', COUNT_OR_NONE)
    surrogate_candidates: int = field_of(
        0, 'The reward decoder ranks this many decisions after each joint epoch; 0 turns it off.',
        COUNT_OR_NONE)
    surrogate_scored: int = field_of(
        4, 'The best decisions that the decoder ranks are scored, this many of them.', COUNT)
    comparison_episodes: int = field_of(
        16, 'At the end of the joint phase this many episodes of the policy are compared with as '
        'many of random actions on the same weights.', COUNT_OR_NONE)
    context_size: int = field_of(
        8, 'The context z has this many numbers; 0 runs without context.', Range(0, 65_536),
        before=128)
    context_updates: int = field_of(
        100, 'The context network and its decoder take this many steps after each epoch.',
        COUNT_OR_NONE)
    context_learning_rate: float = field_of(
        1e-3, 'The context network learns at this rate.', RATE)
    subnetwork_every: int = field_of(
        4, 'In every n-th step of the joint and alignment epochs the followed sub-network trains '
        'beside the whole network, on its answers; 0 is without.', COUNT_OR_NONE, before=0)
    alignment: str = field_of(
        'decay', 'What reads removed channels shrinks to zero at surgery by a decay; or a penalty '
        'of fixed (as published) or adaptive strength pulls the weights; or there is none.',
        choices=('decay', 'fixed', 'adaptive', 'none'), before='fixed')
    alignment_strength: float = field_of(
        1e-4,
        'The alignment penalty has this strength lambda, or begins with it if it is adaptive.',
        STRENGTH)
    alignment_gap: float = field_of(
        0.02,
        'An adaptive lambda aims at this gap between the accuracies of the full model and the '
        'sub-network.', SHARE)

    def check(self) -> None:
        super().check()
        if self.surrogate_candidates and not self.context_updates:
            raise ValueError('rlal.surrogate_candidates are ranked by the reward decoder, which '
                             'learns nothing where rlal.context_updates is 0; received '
                             f'surrogate_candidates={self.surrogate_candidates}.')


@dataclasses.dataclass(frozen=True)
class SearchOptions(Options):
    """A search by DDPG."""
    episodes: int = _count(400, 'The whole search has this many episodes.', high=100_000)
    warmup_episodes: int = _count(
        100, 'The first episodes, this many of them, take random actions.', 0, 100_000)
    lockstep: int = _count(10, 'A round plays this many episodes.', high=1000)
    learning_rate: float = _rate(
        1e-4, "The actor learns at this rate, a tenth of the critic's.")
    noise: float = _positive(
        0.5, "The actor's actions carry noise of this standard deviation in its first episode.",
        10)
    noise_decay: float = _positive(
        0.95, 'The deviation is multiplied by this from one episode to the next.', 1)

    def check(self) -> None:
        super().check()
        self.require('warmup_episodes', self.warmup_episodes < self.episodes,
                     f'below episodes={self.episodes}, as the agent acts in those that follow')


@dataclasses.dataclass(frozen=True)
class AmcOptions(SearchOptions):
    """AMC: DDPG on trained weights."""
    prefix: ClassVar[str] = 'amc.'
    strategy: str = field_of(
        'budget', 'The actions are bounded by the budget, or the reward weighs accuracy against '
        'MACs and the search finds the ratio.', choices=('budget', 'accuracy'))


@dataclasses.dataclass(frozen=True)
class CacpOptions(SearchOptions):
    """CACP: one search by DDPG for several budgets."""
    prefix: ClassVar[str] = 'cacp.'
    lockstep: int = _count(4, 'A round plays this many episodes of each ratio.', high=1000)
    ratios: str = field_of(
        '0.3,0.5,0.7', 'The search is for these comma-separated ratios of the dense cost that the '
        'budget limits.')

    def check(self) -> None:
        super().check()
        found = self.targets
        self.require('ratios', found and len(set(found)) == len(found)
                     and all(0 < ratio < 1 for ratio in found),
                     'different numbers in (0, 1), comma-separated')

    @property
    def targets(self) -> tuple[float, ...]:
        """The numbers that `ratios` lists; () where they are none."""
        try:
            return tuple(float(part) for part in self.ratios.split(','))
        except ValueError:
            return ()


@dataclasses.dataclass(frozen=True)
class AutoCompressOptions(Options):
    """AutoCompress: simulated annealing, progressive rounds of alignment."""
    prefix: ClassVar[str] = 'autocompress.'
    temperature: float = _positive(100.0, 'Annealing begins at this temperature.', 10 ** 6)
    stop_temperature: float = _positive(
        20.0, 'Annealing ends at this temperature or below.', 10 ** 6)
    cooling: float = field_of(
        0.9, 'The temperature is multiplied by this from one to the next.',
        Range(0, 1, open_low=True, open_high=True))
    proposals: int = _count(8, 'At each temperature this many proposals are scored.')
    perturbation: float = _positive(
        0.35, 'At the first temperature a rate changes by at most this.', 1)
    energy: float = _positive(
        3000.0, 'The energy of an accuracy of 0 is above that of 1 by this.', 10 ** 9)
    progressive_rounds: int = _count(
        2, 'There are this many rounds, each a search and epochs of training.', high=1000)
    strength: float = field_of(
        0.2, 'The alignment penalty has this strength lambda; what it does goes with the sum of '
        'the learning rates.', Range(0, 1000))

    MOST_TEMPERATURES: ClassVar[int] = 10_000

    def check(self) -> None:
        super().check()
        self.require('stop_temperature', self.stop_temperature < self.temperature,
                     f'in (0, temperature={self.temperature})')
        self.require('cooling', 1 <= self._count <= self.MOST_TEMPERATURES,
                     f'such that 1 to {self.MOST_TEMPERATURES} temperatures lie above '
                     f'stop_temperature={self.stop_temperature}, not {self._count}')

    @property
    def _count(self) -> int:
        return math.ceil(math.log(self.stop_temperature / self.temperature)
                         / math.log(self.cooling) - 1e-9)

    def temperatures(self) -> list[float]:
        """T_0, T_0 cooling, T_0 cooling^2, ... above the last."""
        return [self.temperature * self.cooling ** i for i in range(self._count)]


@dataclasses.dataclass(frozen=True)
class N2nOptions(Options):
    """N2N: policies that remove layers, then shrink them, of students that train briefly."""
    prefix: ClassVar[str] = 'n2n.'
    removal_rounds: int = _count(8, 'Removal has this many rounds.', 0)
    shrinkage_rounds: int = _count(16, 'Shrinkage has this many rounds.', 0)
    rollouts: int = _count(
        5, 'A round has this many students, fewer where they are known.', high=1000)
    student_steps: int = _count(20, 'A student trains for this many steps.', high=1_000_000)
    student_learning_rate: float = _rate(1e-3, 'A student trains by Adam at this rate.')
    removal_learning_rate: float = _rate(3e-3, 'The policy of removal learns at this rate.')
    shrinkage_learning_rate: float = _rate(1e-1, 'The policy of shrinkage learns at this rate.')
    baseline_rate: float = field_of(
        0.2, 'The newest round has this weight in the moving average of rewards.', SHARE)
    units: int = _count(30, 'Each LSTM has this many units.', high=4096)

    def check(self) -> None:
        super().check()
        self.require('shrinkage_rounds', self.removal_rounds + self.shrinkage_rounds,
                     'at least 1 where removal_rounds is 0: a search of no rounds is '
                     '--method=uniform')


@dataclasses.dataclass(frozen=True)
class PurlOptions(Options):
    """PuRL: DQN with a dense reward, a step a layer."""
    prefix: ClassVar[str] = 'purl.'
    form: str = field_of(
        'channels', 'Channels are removed, or single weights become zero, as published.',
        choices=('channels', 'weights'))
    reward: str = field_of(
        'dense', "Each step is rewarded, or the last one alone, as AMC's.",
        choices=('dense', 'terminal'))
    rounds: int = _count(11, 'The search has this many rounds.')
    episodes: int = _count(
        5, "A round has this many episodes; the paper's are 55 in all.", high=1000)
    sparsity: float = field_of(
        0.8, 'T_P of the weight form: this share of kernel weights becomes zero.',
        Range(0, 1, open_low=True, open_high=True))
    target_accuracy: float = _positive(1.0, 'T_A is this share of the dense accuracy.', 2)
    beta: float = _positive(1.0, 'Rewards are multiplied by this.', 1000)
    norm: str = field_of('l1', 'Filters are ranked by this norm.', choices=('l1', 'l2'))
    updates: int = _count(60, 'DQN takes this many steps a round for each step of an episode.')
    learning_rate: float = _rate(0.001, 'DQN learns at this rate.')
    epsilon_decay: float = field_of(
        0.95, 'Exploration is multiplied by this after each episode.', Range(0, 1, open_high=True))


@dataclasses.dataclass(frozen=True)
class CrlOptions(Options):
    """CRL: PPO with a Lagrange multiplier for the budget."""
    prefix: ClassVar[str] = 'crl.'
    rounds: int = _count(30, 'The search has this many rounds.')
    episodes: int = _count(10, 'A round has this many episodes.', high=1000)
    updates: int = _count(20, "PPO passes this often over a round's episodes.")
    learning_rate: float = _rate(0.01, 'Actor and critics learn at this rate.')
    multiplier: float = field_of(
        1.0, 'The multiplier begins here; from a much smaller one the softplus has no slope left '
        'to move it.', Range(1e-3, 1000))
    multiplier_learning_rate: float = _positive(
        3.0, 'The multiplier learns at this rate, a step a round.', 1000)


@dataclasses.dataclass(frozen=True)
class PpoSearchOptions(Options):
    """RLAL's agent on trained weights."""
    prefix: ClassVar[str] = 'ppo_search.'
    rounds: int = _count(6, 'The search has this many rounds.')
    episodes: int = _count(20, 'A round has this many episodes.', high=1000)
    updates: int = _count(20, "PPO passes this often over a round's episodes.")
    learning_rate: float = _rate(5e-3, 'Actor and critic learn at this rate.')
    around: str = field_of(
        'uniform', 'The policy begins at uniform widths, at those of the control knapsack, or at '
        'the better ones of these on held-out examples.', choices=('uniform', 'knapsack', 'best'))


@dataclasses.dataclass(frozen=True)
class MagnitudeOptions(Options):
    """One threshold for all groups."""
    prefix: ClassVar[str] = 'magnitude.'
    largest_rate: float = field_of(
        1.0, 'No group loses more than this share of its channels, where the budget can be met so; '
        '1 protects none.', SHARE)


@dataclasses.dataclass(frozen=True)
class RandomSearchOptions(Options):
    """The best of random decisions."""
    prefix: ClassVar[str] = 'random_search.'
    decisions: int = _count(100, 'This many decisions are scored, the uniform one first.',
                            high=100_000)
    around_uniform: float = field_of(
        0.0, 'The logarithms of kept shares are those of uniform widths plus normal noise of this '
        'size; 0 draws every pruning rate from [0, 1].', Range(0, 10))
