"""The model card: what a model is, from what it was made, and what is not known of it."""
from typing import Mapping, Sequence

from tfprune.plain_text import markdown_text
from tfprune.report.artifact_table import artifact_rows, losses
from tfprune.report import scores
from tfprune.report.number_text import count, listed
from tfprune.report.reading import (TASK_OF_CLASSIFIERS, Run, all_values, as_given,
                                    further_metrics, task_of, test_score)
from tfprune.report.table import budget_sentences, caveats, mark, markdown


def card_rows(run: Run) -> list[tuple[str, str]]:
    """(what, text) of the card, without what is not known."""
    report, data, environment = run.report, run.data, run.environment
    packages: Mapping[str, str] = environment.get('packages') or {}
    pruned, examples = report['pruned'], task_of(report)['examples']
    rows = [
        ('model', f'{report["model"]}, {report["method"]}, {count(pruned["macs"])}'
                  f'{mark(report, "macs")} multiply-adds, {count(pruned["params"])} parameters'
                  + (f', {count(pruned["trainable_params"])} of them trainable'
                     if 'trainable_params' in pruned else '')),
        ('task', _task(run)), ('input', _input(run)), ('output', _shapes(data.get('outputs'))),
        ('data', f'{report["dataset"]}: {count(data.get("num_train"))} {examples} trained on, '
                 f'{count(data.get("num_reward"))} training {examples} held out for decisions, '
                 f'{count(report.get("test_images"))} test {examples}, which decided nothing'
         if data else ''),
        ('budget', ' '.join(text.removeprefix('Budget: ') for text in budget_sentences(report))),
        (scores.test_title(task_of(report)), _score(run)),
        ('date', report.get('finished', '')),
        ('seed', str(report['seed'])),
        ('commit', all_values(environment, 'commit') or ''),
        ('versions', listed(f'{name} {version}' for name, version in packages.items() if version)),
        ('command', environment.get('command', '')),
        ('limits', ' '.join(limits(run)))]
    return [(what, text) for what, text in rows if text]


def _task(run: Run) -> str:
    """The classes; of other tasks the metric and the losses."""
    report, task = run.report, task_of(run.report)
    names = list(report.get('class_names') or ())
    if names:
        return (f'one of {len(names)} classes: {listed(names[:20])}'
                f'{", …" if len(names) > 20 else ""}')
    if task == TASK_OF_CLASSIFIERS:
        return ''
    which = 'larger' if task['larger_is_better'] else 'smaller'
    further = [f'test {name} {scores.plain(value)}'
               for name, value in further_metrics(report['pruned'], task).items()]
    return (f'metric {task["metric"]} ({which} is better); trained with its '
            f'{scores.loss_name(task)}' + (f'; {listed(further)}' if further else ''))


def _input(run: Run) -> str:
    """Shapes of what the model takes, and what the numbers in it are."""
    shape, text = run.data.get('image_shape'), (run.report.get('input') or {}).get('text')
    if shape:  # Of reports that are older, all models took bytes.
        return (f'images {"×".join(map(str, shape))}, '
                f'{text or "pixels 0…255; the model normalizes them"}')
    return ', '.join(filter(None, (_shapes(run.data.get('inputs')), text)))


def _shapes(tensors: Mapping[str, Sequence[int | None]] | None) -> str:
    """'image 32×32×3, mask 32×32', a size that is not fixed as '?'."""
    return listed(f'{name} {"×".join("?" if size is None else str(size) for size in shape)}'.strip()
                  for name, shape in (tensors or {}).items())


def _score(run: Run) -> str:
    """The test score, and that of the model before."""
    report, task, given = run.report, task_of(run.report), as_given(run.report)
    value = test_score(report['pruned'])
    said = f'{scores.score(task, value)} after the last epoch'
    if not given:
        return said
    first = test_score(given)
    return (f'{said}; before surgery {scores.score(task, test_score(report["dense"]))}; '
            f'as given {scores.score(task, first)}, a difference of '
            f'{scores.difference(task, value, first)}')


def limits(run: Run) -> list[str]:
    """What the numbers do not say, in sentences."""
    task = task_of(run.report)
    metric, examples = task['metric'], task['examples']
    tried = (f'The {metric} holds for {examples} like the test {examples}; others were not tried, '
             'nor how it differs between groups of people or places.')
    if run.data.get('image_shape') or examples == 'images':
        tried = (f'The {metric} holds for images like the test images; other cameras, light or '
                 f'classes were not tried, nor how {metric} differs between groups of people or '
                 'places.')
    said = [tried, 'One run of one seed: the spread over seeds is not in it.',
            'Latencies are of the machine that made the export.']
    return [*said, *losses(run.report.get('artifacts', ()), task), *caveats(run.report)]


def model_card(run: Run) -> str:
    """The card as Markdown."""
    report = run.report
    title = f'{report["model"]} on {report["dataset"]}, pruned by {report["method"]}'
    lines = [f'# {markdown_text(title)}', '']
    for what, text in card_rows(run):
        lines += [f'**{what}**: {markdown_text(text)}', '']
    artifacts = report.get('artifacts')
    if artifacts:
        lines += [*markdown(artifact_rows(artifacts, report.get('dense_latency', ()),
                                          task_of(report))), '']
    return '\n'.join(lines)
