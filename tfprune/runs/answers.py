"""What the models before surgery and after it answer, class by class, and where they differ."""
import pathlib
from typing import Any

import keras
import numpy as np

from tfprune.data.image_data import ImageData
from tfprune.export.keras_file import open_model
from tfprune.files import replacing
from tfprune.report.right_answers import packed
from tfprune.runs.artifacts import predicted_classes
from tfprune.runs.folder import RunFolder

ANSWERS_FILE = 'answers.json'
CHANGED_FILE = 'changed.npz'  # pictures that changed class
_MOST_CLASSES = 100  # of a confusion matrix
_PICTURES = 8  # of those that changed class for the worse, and of those for the better


def write_answers(folder: RunFolder, dense: keras.Model | None, pruned: keras.Model,
                  data: ImageData) -> float | None:
    """Writes answers.json and changed.npz of all test images; the dense model's accuracy, None
    without one."""
    after, labels = _answers(pruned, data)
    before = None if dense is None else _answers(dense, data)[0]
    content = compared(before, after, labels, data.num_classes)
    folder.write_json(ANSWERS_FILE, content)
    if before is None:
        return None
    changed = [row['index'] for row in content['changed']]
    with replacing(folder.path / CHANGED_FILE) as path, open(path, 'wb') as file:
        np.savez_compressed(file, pictures=_pictures(data, changed))
    return float(np.mean(before == labels))


def compared(before: np.ndarray | None, after: np.ndarray, labels: np.ndarray, num_classes: int
             ) -> dict[str, Any]:
    """The answers of two models [N] to images of labels [N], None for the first where there is no
    such model.

    Returns:
        classes: a row a class: images, and of these how many each model answers right.
        confusion: [K][K] counts of the second model, by label and answer; None for many classes.
        changed: the first images, in their order, that one model alone answers right: index,
            label, before, after; those that were right come first.
        right: which images each model answers right, see tfprune.report.right_answers.
    """
    rows = []
    for k in range(num_classes):
        own = labels == k
        rows.append({'images': int(own.sum()), 'after': int(np.sum(after[own] == k)),
                     'before': None if before is None else int(np.sum(before[own] == k))})
    confusion = None
    if num_classes <= _MOST_CLASSES:
        counts = np.bincount(labels * num_classes + after, minlength=num_classes ** 2)
        confusion = counts.reshape(num_classes, num_classes).tolist()
    changed = []
    if before is not None:
        for one, other in ((before, after), (after, before)):
            places = np.flatnonzero((one == labels) & (other != labels))[:_PICTURES]
            changed += [{'index': int(place), 'label': int(labels[place]),
                         'before': int(before[place]), 'after': int(after[place])}
                        for place in places]
    return {'classes': rows, 'confusion': confusion, 'changed': changed,
            'right': packed(before, after, labels)}


def _answers(model: keras.Model, data: ImageData) -> tuple[np.ndarray, np.ndarray]:
    return predicted_classes(open_model(model, pathlib.Path(model.name)), data)


def _pictures(data: ImageData, indices: list[int]) -> np.ndarray:
    """Test images of these indices, uint8 [n, H, W, C], in their order."""
    found: dict[int, np.ndarray] = {}
    first = 0
    low, high = data.pixel_range
    for pixels, _ in data.test_batches(250).as_numpy_iterator():
        if len(found) == len(indices):
            break
        for index in indices:
            if first <= index < first + len(pixels):
                share = (pixels[index - first].astype(np.float64) - low) / max(high - low, 1e-12)
                found[index] = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
        first += len(pixels)
    shape = (0, *data.image_shape)
    return np.stack([found[index] for index in indices]) if indices else np.zeros(shape, np.uint8)
