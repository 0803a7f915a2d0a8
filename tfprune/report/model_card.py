"""The model card: what a model is, from what it was made, and what is not known of it."""
from typing import Mapping

from tfprune.plain_text import markdown_text
from tfprune.report.artifact_table import artifact_rows, losses
from tfprune.report.number_text import count, listed, percent, points
from tfprune.report.reading import Run, all_values, as_given
from tfprune.report.table import budget_sentences, caveats, mark, markdown


def card_rows(run: Run) -> list[tuple[str, str]]:
    """(what, text) of the card, without what is not known."""
    report, data, environment = run.report, run.data, run.environment
    packages: Mapping[str, str] = environment.get('packages') or {}
    given = as_given(report)
    pruned, names = report['pruned'], list(report.get('class_names') or ())
    shape = data.get('image_shape')
    # Of reports that are older, all models took bytes.
    pixels = (report.get('input') or {}).get('text', 'pixels 0…255; the model normalizes them')
    rows = [
        ('model', f'{report["model"]}, {report["method"]}, {count(pruned["macs"])}'
                  f'{mark(report, "macs")} multiply-adds, {count(pruned["params"])} parameters'
                  + (f', {count(pruned["trainable_params"])} of them trainable'
                     if 'trainable_params' in pruned else '')),
        ('task', f'one of {len(names)} classes: {listed(names[:20])}'
                 f'{", …" if len(names) > 20 else ""}' if names else ''),
        ('input', f'images {"×".join(map(str, shape))}, {pixels}' if shape else ''),
        ('data', f'{report["dataset"]}: {count(data.get("num_train"))} images trained on, '
                 f'{count(data.get("num_reward"))} training images held out for decisions, '
                 f'{count(report["test_images"])} test images, which decided nothing'
         if data else ''),
        ('budget', ' '.join(text.removeprefix('Budget: ') for text in budget_sentences(report))),
        ('test accuracy', f'{percent(pruned["test_accuracy"])} after the last epoch'
                          + (f'; before surgery {percent(report["dense"]["test_accuracy"])}; '
                             f'as given {percent(given["test_accuracy"])}, a difference of '
                             f'{points(pruned["test_accuracy"], given["test_accuracy"])}'
                             if given else '')),
        ('date', report.get('finished', '')),
        ('seed', str(report['seed'])),
        ('commit', all_values(environment, 'commit') or ''),
        ('versions', listed(f'{name} {version}' for name, version in packages.items() if version)),
        ('command', environment.get('command', '')),
        ('limits', ' '.join(limits(run)))]
    return [(what, text) for what, text in rows if text]


def limits(run: Run) -> list[str]:
    """What the numbers do not say, in sentences."""
    said = ['The accuracy holds for images like the test images; other cameras, light or classes '
            'were not tried, nor how accuracy differs between groups of people or places.',
            'One run of one seed: the spread over seeds is not in it.',
            'Latencies are of the machine that made the export.']
    return [*said, *losses(run.report.get('artifacts', ())), *caveats(run.report)]


def model_card(run: Run) -> str:
    """The card as Markdown."""
    report = run.report
    title = f'{report["model"]} on {report["dataset"]}, pruned by {report["method"]}'
    lines = [f'# {markdown_text(title)}', '']
    for what, text in card_rows(run):
        lines += [f'**{what}**: {markdown_text(text)}', '']
    artifacts = report.get('artifacts')
    if artifacts:
        lines += [*markdown(artifact_rows(artifacts, report.get('dense_latency', ()))), '']
    return '\n'.join(lines)
