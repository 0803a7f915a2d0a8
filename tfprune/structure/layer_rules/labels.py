"""The labels of channels, and what a rule may do with them."""

import dataclasses

import numpy as np

Labels = np.ndarray  # int [C]: the label of each position of a tensor's channel axis


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a tensor: the label of each position along one axis, counted from the end.

    A tensor has one such axis; the sizes of all others stay.
    """
    labels: Labels
    axis: int = -1


class Tracer:
    """What a rule may do with channel labels: a union-find whose roots are the smallest labels."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._frozen: list[tuple[Labels, str]] = []
        self._summed: list[Labels] = []

    def fresh(self, count: int) -> Labels:
        """Returns `count` labels that nothing else carries, [count]."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def union(self, a: Labels, b: Labels) -> Labels:
        """Couples a[i] with b[i] for every i: they are removed together or not at all.

        Returns the labels that were not coupled before, of `a`.
        """
        if len(a) != len(b):
            raise ValueError(f'cannot couple {len(a)} channels with {len(b)}')
        new = []
        for x, y in zip(a.tolist(), b.tolist()):
            x, y = self._find(x), self._find(y)
            if x != y:
                self._parent[max(x, y)] = min(x, y)
                new.append(x)
        return np.array(new, np.int64)

    def sum(self, a: Labels, b: Labels) -> None:
        """Couples the two sides of a sum: what it newly couples is a residual stream."""
        self._summed.append(self.union(a, b))

    def freeze(self, labels: Labels, reason: str, *, first: bool = False) -> None:
        """Forbids the removal of `labels`; the reason completes "group 'x' is not prunable: …", and
        comes before others that they have if it is the `first`."""
        self._frozen.insert(0 if first else len(self._frozen), (labels, reason))

    def _find(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def roots(self) -> np.ndarray:
        """Returns the root of every label, [number of labels]."""
        roots = np.array(self._parent, np.int64)
        for label in range(len(roots)):
            roots[label] = roots[roots[label]]
        return roots

    def summed(self, roots: np.ndarray) -> set[int]:
        """Returns the roots that a sum couples."""
        return set(roots[np.concatenate([*self._summed, np.empty(0, np.int64)])].tolist())

    def reasons(self, roots: np.ndarray) -> dict[int, str]:
        """Returns for every frozen root the first reason."""
        found: dict[int, str] = {}
        for labels, reason in self._frozen:
            for root in np.unique(roots[labels]).tolist():
                found.setdefault(root, reason)
        return found
