"""Imports point down only: what a package may import stands here once."""
import ast
import importlib
import pathlib
import re
import sys

import pytest

from tfprune import _moved

PACKAGE = pathlib.Path(__file__).parents[1] / 'tfprune'
# Package -> what it may import beside itself and the modules at the top; with all that these may.
BELOW = {
    'structure': (), 'data': (), 'models': ('structure', 'data'), 'tasks': ('models',),
    'pruning': ('tasks',),
    'costs': ('pruning',), 'training': ('pruning',), 'search': ('costs', 'training'),
    'methods': ('search',), 'report': ('structure',), 'export': ('costs', 'training'),
    'latency': ('export',), 'runs': ('methods', 'report', 'latency'), 'benchmarks': ('runs',),
    'commands': ('benchmarks',),
}
# Modules at the top that use the packages: tools of tests.
ABOVE = {'testing', 'command_line', 'callbacks', 'plots', '__init__', '__main__'}
# Library -> who may import it; all others reach it through these, if at all.
LIBRARIES = {
    'tf_agents': ('search/environment.py', 'search/agents/', 'methods/',
                  'benchmarks/drifting_bandit.py'),
    'tensorflow_model_optimization': ('export/',),
    'tf_keras': ('_legacy.py', 'search/agents/', 'export/', 'benchmarks/'),
    'absl': ('command_line.py', 'commands/'),
}


def modules():
    return sorted(PACKAGE.rglob('*.py'))


def imported(path):
    """(module, line) of all imports, those within functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f'{node.module}.{alias.name}', node.lineno


def package_of(name):
    """The package of 'tfprune.x.y', '' for a module at the top; None for another library."""
    first, *rest = name.split('.')
    if first != 'tfprune' or not rest:
        return None
    return rest[0] if rest[0] in BELOW else ''


def allowed(package):
    found = set()
    for below in BELOW[package]:
        found |= {below} | allowed(below)
    return found


def test_every_package_has_its_place_and_says_what_it_is():
    packages = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert packages == set(BELOW)
    for package in packages:
        assert len(ast.get_docstring(ast.parse(
            (PACKAGE / package / '__init__.py').read_text())) or '') > 60, package


@pytest.mark.parametrize('package', ['', *BELOW])
def test_imports_point_down(package):
    may = allowed(package) | {package, ''} if package else {''}
    wrong = []
    for path in modules():
        place = path.relative_to(PACKAGE)
        if (place.parts[0] if len(place.parts) > 1 else '') != package or (
                not package and place.stem in ABOVE):
            continue
        wrong += [f'{place}:{line} imports {name}' for name, line in imported(path)
                  if package_of(name) not in (None, *may)]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('library', LIBRARIES)
def test_libraries_are_reached_through_few_modules(library):
    wrong = [f'{path.relative_to(PACKAGE)}:{line}' for path in modules()
             for name, line in imported(path) if name.split('.')[0] == library
             and not str(path.relative_to(PACKAGE)).startswith(LIBRARIES[library])]
    assert not wrong, '\n'.join(wrong)


PRIVATE = re.compile(r'\bkeras\.src\b|\._(flatten_layers|keras_history|inbound_nodes|functional|'
                     r'nodes_by_depth|standardize_inputs|moments)\b')


@pytest.mark.parametrize('old, new', _moved.MOVED.items())
def test_old_names_are_answered_and_deprecated(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f'{old} is {new} now'):
        module = importlib.import_module(old)
    names = vars(importlib.import_module(new))
    name = next(name for name in names if name[0] != '_' and name.islower())
    assert getattr(module, name) is getattr(sys.modules[new], name)
    with pytest.raises(ImportError):
        importlib.import_module(f'{old}_')


def test_private_names_of_keras_stand_in_one_file():
    files = {str(path.relative_to(PACKAGE)) for path in modules()
             if PRIVATE.search(path.read_text().replace('tf_keras.src', ''))}
    assert files == {'structure/keras_internals.py'}


def test_tests_stand_in_folders_of_the_same_names():
    folders = {path.parent.name for path in pathlib.Path(__file__).parent.glob('*/test_*.py')}
    assert folders == set(BELOW)
