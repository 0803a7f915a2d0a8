"""The exported files as a table: bytes, accuracy on the test images, latency by threads."""
from typing import Any, Mapping, Sequence

from tfprune.report.number_text import MISSING, count, milliseconds, percent
from tfprune.report.table import align

Row = Mapping[str, Any]
LOSS_WARNED = 0.01  # of accuracy against the Keras model


def artifact_rows(rows: Sequence[Row], dense_latency: Sequence[Row] = ()) -> list[tuple[str, ...]]:
    """Texts, the header first; latency in ms and, in brackets, its share of dense float32's."""
    threads = next(([seen['threads'] for seen in row['latency']] for row in rows
                    if row.get('latency')), [])
    table = [('file', 'bytes', 'test accuracy',
              *(f'{number} thread{"s" * (number > 1)}, ms' for number in threads))]
    if dense_latency:
        table.append(('dense, float32 TFLite', '', '',
                      *(milliseconds(seen['median_ms']) for seen in dense_latency)))
    for row in rows:
        cells = [milliseconds(seen['median_ms'])
                 + (f' ({percent(seen["ratio"], 0)})' if seen['ratio'] else '')
                 for seen in row.get('latency', ())]
        table.append((row['file'], count(row['bytes']), percent(row['accuracy']),
                      *(cells or [MISSING] * len(threads))))
    return table


def format_artifacts(rows: Sequence[Row], dense_latency: Sequence[Row] = ()) -> str:
    """The table for a terminal."""
    return '\n'.join(align(artifact_rows(rows, dense_latency), rule=True))


def losses(rows: Sequence[Row]) -> list[str]:
    """A sentence for each file that is less accurate than the Keras model by more than a point."""
    return [f'{row["file"]} loses {100 * row["lost"]:.1f} points of accuracy against the Keras '
            f'model; {row.get("advice", "look at its parity")}.'
            for row in rows if row['lost'] > LOSS_WARNED]


def latency_notes(rows: Sequence[Row], cores: int | None) -> list[str]:
    """What the latencies are."""
    if not any(row.get('latency') for row in rows):
        return []
    said = ('Latency: median of 200 inferences of one image, all files and the dense one in turns; '
            "in brackets the share of the dense float32 file's, the median over the rounds.")
    return [said + (f' More than {cores} threads share {cores} cores.' if cores else '')]
