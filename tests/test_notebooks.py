"""The notebooks run from top to bottom, each in a kernel of its own, here with smaller networks and
shorter schedules.
"""
import ast
import importlib
import pathlib

import pytest

import tfprune
from small_model import small_model

nbformat = pytest.importorskip('nbformat', reason="needs nbclient: pip install 'tfprune[test]'")
nbclient = pytest.importorskip('nbclient', reason="needs nbclient: pip install 'tfprune[test]'")

# Notebook -> [(what its cells say, what is run)].
SHORTER = {
    'own_model': [('conv(inputs, 32)', 'conv(inputs, 8)'),
                  ('((32, 1), (64, 2))', '((8, 1), (16, 2))'),
                  ('fit(model, 8,', 'fit(model, 3,'), ('fit(pruned, 4,', 'fit(pruned, 1,'),
                  ('fit(found.model, 4,', 'fit(found.model, 1,'),
                  ("{'decisions': 10}", "{'decisions': 3}"),
                  ('fine_tune_epochs=4', 'fine_tune_epochs=1')],
    'methods_compared': [('--model=resnet8', f'--model={small_model()}'),
                         ('--warmup_epochs=3', '--warmup_epochs=1'),
                         ('--joint_epochs=3', '--joint_epochs=1'),
                         ('--fine_tune_epochs=6', '--fine_tune_epochs=3'),
                         ('episodes_per_epoch=12', 'episodes_per_epoch=4')]}
FOLDER = pathlib.Path(__file__).parents[1] / 'flags/notebooks'


def kinds(notebook):
    """The kinds of what each code cell shows, without what libraries say on stderr."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            names = [name for output in cell.outputs
                     for name in output.get('data') or [output.get('name', 'error')]]
            found.append({name for name in names if name != 'stderr'})
    return found


@pytest.mark.parametrize('name', SHORTER)
def test_what_a_notebook_imports_and_calls_of_the_package_is_there(name):
    code = '\n'.join(cell.source for cell in nbformat.read(FOLDER / f'{name}.ipynb', 4).cells
                     if cell.cell_type == 'code')
    lines = [line for line in code.splitlines() if not line.startswith(('!', '%'))]
    found = 0
    for node in ast.walk(ast.parse('\n'.join(lines))):
        if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] == 'tfprune':
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f'{node.module}.{alias.name}'
                found += 1
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (
                node.value.id == 'tfprune'):
            assert hasattr(tfprune, node.attr), f'tfprune.{node.attr}'
            found += 1
    assert found > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.extra('rl')
@pytest.mark.parametrize('name', SHORTER)
def test_a_notebook_runs_and_shows_what_its_file_does(name):
    notebook = nbformat.read(FOLDER / f'{name}.ipynb', 4)
    committed = kinds(notebook)
    for long, short in SHORTER[name]:
        cell, = (cell for cell in notebook.cells
                 if cell.cell_type == 'code' and long in cell.source)
        cell.source = cell.source.replace(long, short)
    nbclient.NotebookClient(notebook, timeout=540, kernel_name='python3',
                            resources={'metadata': {'path': str(FOLDER)}}).execute()
    assert kinds(notebook) == committed
    assert any('image/png' in cell for cell in committed)
    assert not any('error' in cell for cell in committed)


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob('*.ipynb')} == set(SHORTER)
