"""Which images are held out: a share of each class, drawn at random, that leaves enough of it."""

import logging

import numpy as np

from tfprune.plain_text import first_few

FEW = 10  # training images; classes with fewer are named
_LOGGER = logging.getLogger(__name__)


def test_sizes(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Test images of each class, int64 [K]: the nearest number to fraction · sizes, at least one
    but not all."""
    return np.maximum(0, np.minimum(np.maximum(np.round(fraction * sizes), 1), sizes - 1)
                      ).astype(np.int64)


def test_split(labels: np.ndarray, num_classes: int, fraction: float,
               split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices of the training images, of the test images), int64, sorted within each class.

    Drawn from each class apart; a function of the labels [N], sorted or not, and split_seed.
    """
    sizes = np.bincount(labels, minlength=num_classes)
    members = np.split(np.argsort(labels, kind='stable'), np.cumsum(sizes)[:-1])
    train, test = [], []
    for label, (indices, count) in enumerate(zip(members, test_sizes(sizes, fraction))):
        drawn = np.random.default_rng((split_seed, label)).permutation(len(indices))
        test.append(indices[np.sort(drawn[:count])])
        train.append(indices[np.sort(drawn[count:])])
    return np.concatenate(train), np.concatenate(test)


def draw(sizes: np.ndarray, count: int, most: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many of each class to hold out, int64 [K], so that they are `count` together.

    By largest remainder: the whole part of count · sizes / Σ sizes, and one more where the rest is
    largest, equal ones in random order; at most `most`.

    Args:
        sizes: images of each class, integers [K].
        count: at most Σ most.
        most: of each class, integers [K].
    """
    whole, rest = np.divmod(count * sizes.astype(np.int64), sizes.sum())
    drawn, by_chance = np.minimum(whole, most), rng.permutation(len(sizes))
    by_rest = by_chance[np.argsort(-rest[by_chance], kind='stable')]
    while drawn.sum() < count:
        able = by_rest[drawn[by_rest] < most[by_rest]]
        drawn[able[:count - drawn.sum()]] += 1
    return drawn


def reward_split(name: str, labels: np.ndarray, class_names: tuple[str, ...], reward_images: int,
                 split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices to train on, sorted; indices of the reward split), int64, for labels [N].

    The draw depends on labels and split_seed alone. The reward split is in a random order of which
    every beginning is about as balanced as the whole: of the m_c images of class c, the first n of
    all m hold n · m_c / m, give or take one or two.

    Args:
        reward_images: m, or 0 for a tenth of the images, up to 5,000.

    Raises:
        ValueError: more than half of the images of each class.
    """
    size, sizes = len(labels), np.bincount(labels, minlength=len(class_names))
    at_most = sizes // 2  # half, so that one at least stays
    most = int(at_most.sum())
    if not most:
        raise ValueError(f'{name}: no class has two training images, one to train on and one to '
                         'hold out for rewards')
    count = reward_images or min(5000, max(1, size // 10), most)
    if not 0 < count <= most:
        raise ValueError(
            f'reward_images: expected 1 … {most} of the {size} training images of {name}, at most '
            f'half of each class, received {reward_images}')
    rng = np.random.default_rng(split_seed)
    drawn, order = draw(sizes, count, at_most, rng), rng.permutation(size)
    by_class = order[np.argsort(labels[order], kind='stable')]
    held, places = [], []
    for first, number in zip(np.cumsum(sizes) - sizes, drawn):
        held.append(by_class[first:first + number])
        # One in each of `number` equal parts of the split, at random within it.
        places.append((np.arange(number) + rng.random(number)) / max(1, number))
    reward = np.concatenate(held)[np.argsort(np.concatenate(places), kind='stable')]
    name_small_classes(name, class_names, sizes, drawn)
    return np.setdiff1d(np.arange(size), reward), reward


def name_small_classes(name: str, class_names: tuple[str, ...], sizes: np.ndarray,
                       drawn: np.ndarray) -> None:
    """One warning that names the classes with few images, and those without a reward image.

    Args:
        sizes: training images of each class, [K].
        drawn: reward images of each class, [K].
    """
    few, said = np.flatnonzero(sizes < FEW), []
    # Fewer reward images than classes cannot be of every class.
    none = np.flatnonzero((drawn == 0) & (drawn.sum() >= len(drawn)))
    if len(few):
        counts = first_few(f'{class_names[label]} ({sizes[label]})' for label in few)
        said.append(f'{len(few)} of {len(sizes)} classes with fewer than {FEW} training images: '
                    f'{counts}')
    if len(none):
        said.append(f'{len(none)} without an image in the reward split: '
                    f'{first_few(class_names[label] for label in none)}')
    if said:
        _LOGGER.warning('%s: %s', name, '; '.join(said))
