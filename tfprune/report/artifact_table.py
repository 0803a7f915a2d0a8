"""The exported files as a table: bytes, score on the test data, latency by threads."""
from typing import Any, Mapping, Sequence

from tfprune.report import scores
from tfprune.report.number_text import MISSING, count, milliseconds, percent
from tfprune.report.reading import TASK_OF_CLASSIFIERS, finite
from tfprune.report.table import align

Row = Mapping[str, Any]
LOSS_WARNED = 0.01  # of a share against the Keras model
RELATIVE_LOSS_WARNED = 0.02  # of another metric, in shares of the Keras model's


def artifact_rows(rows: Sequence[Row], dense_latency: Sequence[Row] = (),
                  task: Row = TASK_OF_CLASSIFIERS) -> list[tuple[str, ...]]:
    """Texts, the header first; latency in ms and, in brackets, its share of dense float32's."""
    threads = next(([seen['threads'] for seen in row['latency']] for row in rows
                    if row.get('latency')), [])
    table = [('file', 'bytes', scores.test_title(task),
              *(f'{number} thread{"s" * (number > 1)}, ms' for number in threads))]
    if dense_latency:
        table.append(('dense, float32 TFLite', '', '',
                      *(milliseconds(seen['median_ms']) for seen in dense_latency)))
    for row in rows:
        cells = [milliseconds(seen['median_ms'])
                 + (f' ({percent(seen["ratio"], 0)})' if seen['ratio'] else '')
                 for seen in row.get('latency', ())]
        table.append((row['file'], count(row['bytes']), scores.score(task, _value(row)),
                      *(cells or [MISSING] * len(threads))))
    return table


def format_artifacts(rows: Sequence[Row], dense_latency: Sequence[Row] = (),
                     task: Row = TASK_OF_CLASSIFIERS) -> str:
    """The table for a terminal."""
    return '\n'.join(align(artifact_rows(rows, dense_latency, task), rule=True))


def losses(rows: Sequence[Row], task: Row = TASK_OF_CLASSIFIERS) -> list[str]:
    """A sentence for each file that is worse than the Keras model: of shares by more than
    LOSS_WARNED, of other metrics by more than RELATIVE_LOSS_WARNED of what the Keras model has."""
    said = []
    for row in rows:
        if not finite(row['lost']):
            continue
        advice = row.get('advice', 'look at its parity')
        # What is lost is positive where the file is worse.
        keras_score = (_value(row) or 0) + scores.gain(task, row['lost'])
        if task['is_share'] and row['lost'] > LOSS_WARNED:
            said.append(f'{row["file"]} loses {100 * row["lost"]:.1f} points of {task["metric"]} '
                        f'against the Keras model; {advice}.')
        elif not task['is_share'] and row['lost'] > RELATIVE_LOSS_WARNED * abs(keras_score):
            said.append(f'{row["file"]} has {task["metric"]} {scores.plain(_value(row))}, worse '
                        f'than {scores.plain(keras_score)} of the Keras model; {advice}.')
    return said


def _value(row: Row) -> Any:
    return row['score'] if 'score' in row else row['accuracy']


def latency_notes(rows: Sequence[Row], cores: int | None,
                  task: Row = TASK_OF_CLASSIFIERS) -> list[str]:
    """What the latencies are."""
    if not any(row.get('latency') for row in rows):
        return []
    said = (f'Latency: median of 200 inferences of one {scores.one_example(task)}, all files and '
            "the dense one in turns; in brackets the share of the dense float32 file's, the median "
            'over the rounds.')
    return [said + (f' More than {cores} threads share {cores} cores.' if cores else '')]
