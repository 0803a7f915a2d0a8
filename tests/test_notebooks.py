"""The notebooks run from top to bottom, each in a kernel of its own."""
import pathlib

import pytest

nbformat = pytest.importorskip('nbformat', reason="needs nbclient: pip install 'tfprune[test]'")
nbclient = pytest.importorskip('nbclient', reason="needs nbclient: pip install 'tfprune[test]'")

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / 'flags/notebooks').glob('*.ipynb'))


def kinds(notebook):
    """The kinds of what each code cell shows, without what libraries say on stderr."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            names = [name for output in cell.outputs
                     for name in output.get('data') or [output.get('name', 'error')]]
            found.append({name for name in names if name != 'stderr'})
    return found


@pytest.mark.timeout(600)
@pytest.mark.extra('rl')
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_its_file_does(path):
    notebook = nbformat.read(path, 4)
    committed = kinds(notebook)
    nbclient.NotebookClient(notebook, timeout=540, kernel_name='python3',
                            resources={'metadata': {'path': str(path.parent)}}).execute()
    assert kinds(notebook) == committed
    assert any('image/png' in cell for cell in committed)
    assert not any('error' in cell for cell in committed)
