"""A built wheel in an environment of its own, as in a user's project; python tests/wheel_check.py

The environment has a pydantic, an absl-py and a typing-extensions that the extras could not live
with. Nothing of the checkout is on its path. Says how long each step took; fails at the first that
goes wrong.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
PARTS = ('tfprune', 'flags', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE')
BESIDE = ('absl-py>=2', 'pydantic>=2', 'typing-extensions>=4.12')
MODEL = '''
import keras
from keras import layers
keras.Sequential([keras.Input((8, 8, 1)),
                  layers.Conv2D(16, 3, activation='relu'), layers.Conv2D(32, 3, activation='relu'),
                  layers.GlobalAveragePooling2D(), layers.Dense(10)]).save('model.keras')
'''
FAR = '''
import pathlib, platform, tfprune
assert 'site-packages' in tfprune.__file__, tfprune.__file__
page = pathlib.Path(tfprune.__file__).parent / 'export/web'
missing = {'index.html', 'page.css', 'page.js', 'pixels.js'} - {p.name for p in page.iterdir()}
assert not missing, missing
print(platform.python_version())
'''
# The quickstart without agents, of a smaller model, and with fewer epochs.
TRAIN = ('train', '--flagfile=quickstart.flags', '--method=uniform', '--model=model.keras',
         '--warmup_epochs=1', '--random_epochs=0', '--joint_epochs=0', '--alignment_epochs=0',
         '--fine_tune_epochs=1', '--run_dir=run')


def main() -> None:
    """Builds, installs and uses."""
    with tempfile.TemporaryDirectory() as folder:
        install(pathlib.Path(folder))
        use(pathlib.Path(folder))


def install(work: pathlib.Path) -> None:
    """Builds the wheel of a copy, without what earlier builds left, and installs it."""
    (work / 'source').mkdir(parents=True)
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, work / 'source' / name)
    step('build', sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', work,
         work / 'source')
    wheel, = work.glob('*.whl')
    venv.create(work / 'venv', with_pip=True)
    python = work / 'venv/bin/python'
    pip = (python, '-m', 'pip', '--disable-pip-version-check')
    uv = shutil.which('uv')
    installer = (uv, 'pip', 'install', '--python', python) if uv else (
        *pip, 'install', '--no-compile')
    step('install', *installer, '-q', wheel, *BESIDE)
    step('pip check', *pip, 'check')


def use(work: pathlib.Path) -> None:
    """Prunes a file and trains by the command, away from the checkout."""
    python, tfprune = work / 'venv/bin/python', work / 'venv/bin/tfprune'
    print(f'wheel: Python {step("import", python, "-c", FAR, cwd=work).strip()}')
    begun = time.monotonic()
    step('help', tfprune, 'train', '--help', cwd=work)
    assert time.monotonic() - begun < 2, 'tfprune train --help took two seconds and more'
    step('a model', python, '-c', MODEL, cwd=work)
    assert 'pruned / before' in step('prune', tfprune, 'prune', 'model.keras', '--macs=0.5',
                                     '--out=small.keras', cwd=work)
    assert 'test accuracy' in step('train', tfprune, *TRAIN, cwd=work)
    assert (work / 'run/export/model.tflite').stat().st_size > 10_000
    said = step('a method of an extra', tfprune, 'train', '--flagfile=quickstart.flags',
                '--run_dir=rlal', cwd=work, code=2)
    assert "pip install 'tfprune[rl]'" in said and len(said.splitlines()) == 1, said


def step(name: str, *command: object, cwd: pathlib.Path | None = None, code: int = 0) -> str:
    """Runs a command; what it says."""
    kept = {key: value for key, value in os.environ.items()
            if key not in ('PYTHONPATH', 'PYTHONDONTWRITEBYTECODE')}
    begun = time.monotonic()
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=kept, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != code:
        sys.exit(f'wheel: {name} ended with {done.returncode}:\n{done.stdout[-6000:]}')
    print(f'wheel: {name}: {time.monotonic() - begun:.1f} s', flush=True)
    return done.stdout


if __name__ == '__main__':
    main()
