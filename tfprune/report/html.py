"""report.html: a run in one file, without network."""
import os
from typing import Any

from markupsafe import Markup

from tfprune.files import write_text
from tfprune.report import scores
from tfprune.report.answers import (changes_sentence, class_rows, confusions, plot_changed,
                                    plot_confusion)
from tfprune.report.artifact_table import artifact_rows, latency_notes, losses
from tfprune.report.layers import operators_sentence, plot_layer_macs, plot_operators
from tfprune.report.model_card import card_rows
from tfprune.report.network import plot_network
from tfprune.report.number_text import (MISSING, count, duration, listed, milliseconds, percent,
                                        quotient)
from tfprune.report.page import (figure, joined, link, page, plots, section, side_by_side, table,
                                 tiles)
from tfprune.report.plots import (plot_episodes, plot_loss, plot_scores, plot_strength,
                                  plot_widths)
from tfprune.report.reading import Run, all_values, read_run, task_of, test_score
from tfprune.report.table import (account_sentence, agent_sentences, budget_sentences, columns,
                                  headline, latency_sentences, mark, pairing_sentences,
                                  reference_score, sparsity_sentences, table_notes, table_rows,
                                  training_sentences)

_MOST_ROWS = 25  # classes of a table that is open


def write_html(run_dir: str | os.PathLike[str]) -> None:
    """Writes report.html into the folder of a finished run, whole or not at all.

    Raises:
        FileNotFoundError: it has no report.json.
        ValueError: a file of it is damaged.
    """
    run = read_run(run_dir)
    write_text(run.path / 'report.html', render(run))


def render(run: Run) -> str:
    """The page; a section without content is left out."""
    report = run.report
    title = f'{report["method"]}: {report["model"]} on {report["dataset"]}, seed {report["seed"]}'
    parts = (_tiles, _table, _network, _scores, _loss, _episodes, _strength, _by_class, _changed,
             _parity, _files, _card, _classes, _environment, _configuration)
    lead = headline(report).removeprefix(title).strip(', ')
    return page(title, lead, joined([part(run) for part in parts]))


def _tiles(run: Run) -> Markup:
    dense, pruned = run.report['dense'], run.report['pruned']
    name, reference = columns(run.report)[0], reference_score(run.report)
    task, value = task_of(run.report), test_score(pruned)
    facts = [(scores.test_title(task), scores.score(task, value),
              f'{scores.difference(task, value, reference)} against '
              f'{scores.score(task, reference)} {name}'
              if reference is not None else 'after the last epoch')]
    for key, label in (('macs', 'MACs'), ('tflite_bytes', 'TFLite bytes')):
        facts.append((label, percent(quotient(pruned[key], dense[key]))
                      if dense[key] else count(pruned[key]) + mark(run.report, key),
                      ' of '.join(count(side[key]) + mark(run.report, key)
                                  for side in (pruned, dense)) if dense[key] else ''))
    ratio = run.report['latency_ratio']
    facts.append(('TFLite latency', percent(ratio, 1) if ratio else
                  f'{milliseconds(pruned["latency_ms"])} ms',
                  f'{milliseconds(pruned["latency_ms"])} ms, 1 thread'))
    return tiles(facts)


def _table(run: Run) -> Markup:
    report = run.report
    names = columns(report)
    rows = [('', *names)]
    rows += [(row.name, *row.cells) for row in table_rows(report)]
    spread = [f'{name} {milliseconds(side["latency_p10_ms"])}–'
              f'{milliseconds(side["latency_p90_ms"])} ms'
              for name, side in ((names[0], report['dense']), (names[-2], report['pruned']))
              if side['latency_ms'] is not None]
    return section(f'{names[0].capitalize()} and {names[-2]}', table(rows),
                   paragraphs=[*budget_sentences(report), *sparsity_sentences(report),
                               *latency_sentences(report), *pairing_sentences(report),
                               account_sentence(report), *training_sentences(report)],
                   notes=[*table_notes(report),
                          f'Latency, 10th to 90th percentile: {", ".join(spread)}.'])


def _scores(run: Run) -> Markup:
    task = task_of(run.report)
    examples = task['examples']
    caption = (f'Epochs count from 1. Held-out {examples} are training {examples} kept for '
               f'rewards. Test {examples} decide nothing: models are measured on them as given, '
               'before surgery and after the last epoch.')
    return plots(scores.title(task), [(plot_scores(run), caption)])


def _by_class(run: Run) -> Markup:
    rows = class_rows(run)
    if not rows:
        return Markup()
    fig, mistakes = plot_confusion(run), confusions(run)
    drawn = figure(fig, 'Answers by class', 'Test images by class and answer; the darker, the '
                   'larger the share of the class.') if fig else Markup()
    return section('Accuracy by class', side_by_side([drawn, table(rows)] if fig
                                                     else [table(rows)]),
                   paragraphs=list(filter(None, (
                       changes_sentence(run), 'Commonest mistakes of the pruned model: '
                       f'{"; ".join(mistakes)}.' if mistakes else ''))),
                   closed=len(rows) > _MOST_ROWS)


def _changed(run: Run) -> Markup:
    caption = ('Test images that one of the two models alone answers right, the first of each '
               'kind: answer before surgery → after it; orange: right before, blue: right after.')
    return plots('Pictures that changed class', [(plot_changed(run), caption)])


def _episodes(run: Run) -> Markup:
    task = task_of(run.report)
    metric, start = task['metric'], task['start']
    what = f'the {metric} of one sub-network on held-out training {task["examples"]}'
    if start is not None:
        share = ', as a share of that' if start else ''
        what = (f'1/2 + d / (2(1 + |d|)), where d is by how much {what} is better than '
                f'{start:.4g}{share}')
    caption = (f'Each dot is an episode: {what}, weights frozen. Lines are means of an epoch. '
               'Right: policy and random actions on the same weights, squares are means with their '
               'standard errors.')
    return plots('Episodes', [(plot_episodes(run), caption)],
                 paragraphs=agent_sentences(run.report))


def _network(run: Run) -> Markup:
    """What was cut, where: the network, widths, multiply-adds and latency by layer."""
    return joined([plots(title, [(fig, caption)]) for title, fig, caption in (
        ('What was cut', plot_network(run),
         'The network from top to bottom, without calls that hand on each channel, such as '
         'normalization and pooling. Full boxes keep all channels, the blank part of a box was '
         'cut; gray cannot be cut.'),
        ('MACs by layer', plot_layer_macs(run),
         'Multiply-adds of each call of a layer, exact; together they are those of the model.'),
        ('Widths', plot_widths(run),
         'Channels kept of each prunable group, in topological order.'),
        ('Latency by operator', plot_operators(run), operators_sentence(run)))])


def _strength(run: Run) -> Markup:
    return plots('Strength of the alignment', [(
        plot_strength(run), 'λ, the factor of the alignment penalty, as each epoch trained with '
        'it.')])


def _loss(run: Run) -> Markup:
    return plots('Loss and learning rate', [(
        plot_loss(run), 'Means over the steps of an epoch; the learning rate at its last step.')])


def _parity(run: Run) -> Markup:
    parity = run.report.get('parity')
    if not parity or not parity.get('pairs'):
        return Markup()
    task = task_of(run.report)
    rows: list[tuple[str, ...]] = [('forms', 'largest difference', 'allowed', 'same top-1')]
    rows += [(f'{pair["first"]} – {pair["second"]}', f'{pair["difference"]:.3g}',
              '–' if pair['limit'] is None else f'{pair["limit"]:.3g}',
              f'{pair["agreement"]:.1%}' if pair.get('agreement') is not None else '–')
             for pair in parity['pairs']]
    if not task['is_accuracy'] and all(row[-1] == '–' for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return section('Parity of the exported forms', table(rows), notes=[
        f'Largest absolute difference of outputs on {count(parity["images"])} {parity["source"]} '
        f'{task["examples"]}; the largest output is {parity["largest_output"]:.4g}.'])


def _files(run: Run) -> Markup:
    artifacts, files = run.report.get('artifacts'), run.report.get('files')
    if artifacts:
        task = task_of(run.report)
        header, *lines = artifact_rows(artifacts, run.report.get('dense_latency', ()), task)
        known = {row['file'] for row in artifacts}
        body: list[tuple[str, ...]] = [tuple(header)]
        for first, *rest in lines:
            body.append((link(f'export/{first}') if first in known else first, *rest))
        return section('Files', table(body), paragraphs=losses(artifacts, task),
                       notes=latency_notes(artifacts, run.environment.get('cores'), task))
    if not files:
        return Markup()
    rows = [('form', 'file'), *((form, link(path)) for form, path in files.items())]
    return section('Files', table(rows, left=2))


def _card(run: Run) -> Markup:
    return section('Model card', table(card_rows(run), left=2, header=False))


def _classes(run: Run) -> Markup:
    names = run.report.get('class_names')
    if not names:
        return Markup()
    rows = [('output', 'class'), *((str(index), name) for index, name in enumerate(names))]
    return section(f'Classes ({len(names)})', table(rows, left=2), closed=True)


def _environment(run: Run) -> Markup:
    environment, seconds = run.environment, run.report['seconds']
    packages = environment.get('packages') or {}
    cores = environment.get('cores')
    facts = [('command', environment.get('command')), ('commit', all_values(environment, 'commit')),
             ('python', environment.get('python')),
             ('packages', listed(f'{name} {version}' for name, version in packages.items()
                                 if version)),
             ('platform', environment.get('platform')),
             ('hardware', f'{all_values(environment, "processor") or MISSING}, {cores or "?"} cores'
              if environment else None),
             ('time', f'{duration(seconds["total"])}: training {duration(seconds["training"])}, '
                      f'method {duration(seconds["search"])}'),
             ('memory', _memory(run.report.get('peak_process_bytes')))]
    rows = [(name, str(value)) for name, value in facts if value]
    return section('Environment', table(rows, left=2, header=False))


def _memory(peak: int | None) -> str | None:
    return None if peak is None else f'{peak / 2 ** 30:.2f} GiB at most (resident, process)'


def _configuration(run: Run) -> Markup:
    rows: list[tuple[str, Any]] = [(f'--{name}', str(value)) for name, value in run.config.items()]
    if not rows:
        return Markup()
    return section('Configuration', table(rows, left=2, header=False), closed=True)
