r"""Prunes a model file to a budget at once: one pruning rate for all groups, no data, no training.

tfprune prune model.keras --macs=0.5 --out=pruned.keras
tfprune prune model.keras --params=200000 --criterion=l2 --prune_residual_groups

What comes out is a plain Keras model with the weights that are left, not compiled. It is to be
trained on: by `fit`, or by `tfprune train`, which does all of it with data.
"""
import pathlib
from collections.abc import Sequence

from absl import flags

from tfprune import command_line
from tfprune.config import LIMITS, flag_fields
from tfprune.costs.options import BudgetOptions
from tfprune.runs.beforehand import check_file
from tfprune.structure.options import StructureOptions

FLAGS = flags.FLAGS
_OPTIONS = ('criterion', *(field.name for part in (BudgetOptions, StructureOptions)
                           for field in flag_fields(part)))
flags.DEFINE_string('model', None, 'A .keras file; may stand without --model.')
command_line.define_output('out', 'The file to write, .keras; by default MODEL_pruned.keras.')
flags.DEFINE_string('image_size', '', 'N, HxW or HxWxC, of a file that takes images of any size.')
flags.DEFINE_integer('seed', 0, 'Of --criterion=random.', lower_bound=0)
command_line.define_config_flags([*_OPTIONS, 'custom_layers'])

_ROWS = {'macs': 'MACs', 'params': 'params', 'peak_memory_bytes': 'peak memory, bytes'}


def main(arguments: Sequence[str]) -> None:
    """Prunes, writes, opens what was written and compares it, prints the costs."""
    source, out = _files(arguments)
    options = {name: FLAGS[name].value for name in _OPTIONS}
    if not any(options[name] for name in LIMITS):
        raise ValueError(f'a budget is needed, such as --macs=0.5: one of --{", --".join(LIMITS)}.')
    # Not above: --help, and what is said of a wrong flag, need none of it.
    with command_line.importing():
        import keras
        import numpy as np
        from tfprune.costs.model import count_cost
        from tfprune.errors import Fault
        from tfprune.files import replacing
        from tfprune.models.building import untrained_model
        from tfprune.models.model_files import read_keras_file, run_custom_layers
        from tfprune.runs.own_training import prune_to_budget
        from tfprune.structure.graph import functional_graph
    run_custom_layers(FLAGS.custom_layers)
    model = untrained_model(str(source), image_size=FLAGS.image_size)
    pruned = prune_to_budget(model, seed=FLAGS.seed, **options)
    with replacing(out) as path:
        pruned.save(path)
    before, after = count_cost(model), count_cost(pruned)

    def answers(one: keras.Model) -> list[np.ndarray]:
        """To an example of noise."""
        rng = np.random.default_rng(0)
        return [np.asarray(output) for output in keras.tree.flatten(one(keras.tree.map_structure(
            lambda given: rng.uniform(size=(1, *given.shape[1:])).astype(given.dtype),
            functional_graph(one).input)))]

    opened = read_keras_file(out)
    if count_cost(opened) != after or not all(
            np.array_equal(*pair) for pair in zip(answers(opened), answers(pruned), strict=True)):
        raise Fault(f'{out} is not the model that was pruned.')
    print(f'{source}: pruned at uniform widths, channels kept by {FLAGS.criterion}\n\n'
          f'{"":20}{"before":>16}{"pruned":>16}{"pruned / before":>18}')
    for field, title in _ROWS.items():
        dense, left = getattr(before, field), getattr(after, field)
        share = f'{left / dense:.2%}' if dense else '–'
        print(f'{title:20}{dense:>16,}{left:>16,}{share:>18}')
    print(f'\n{out}: opened again, it costs and answers as the pruned model does. It was not '
          'trained\nsince; model.fit, or tfprune train with data, brings back what it has lost.')


def _files(arguments: Sequence[str]) -> tuple[pathlib.Path, pathlib.Path]:
    """(the file to read, the file to write); ValueError or OSError where they cannot be that."""
    given = [*arguments, *filter(None, [FLAGS.model])]
    if len(given) != 1:
        raise ValueError(f'expected one model file, received {", ".join(given) or "none"}.')
    source = pathlib.Path(given[0])
    check_file('model', given[0])
    out = pathlib.Path(FLAGS.out or source.with_name(f'{source.stem}_pruned.keras'))
    if out.suffix != '.keras':
        raise ValueError(f'--out must end in .keras; received {str(out)!r}.')
    if out.exists() and out.samefile(source):
        raise ValueError(f'--out must be another file than the model; received {str(out)!r}.')
    return source, out
