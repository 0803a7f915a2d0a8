"""LiteRT.js, the runtime of the page: a package of npm that is copied beside the page."""
from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile

PACKAGE = '@litertjs/core@2.5.3'
# Of 38 MB what a page needs that is served without cross-origin isolation, thus without threads:
# 18 MB, of which a browser loads one half, that for its vector instructions.
FILES = tuple(f'node_modules/@litertjs/{name}' for name in (
    'core/package.json', 'core/dist/index.js', 'wasm-utils/package.json',
    'wasm-utils/dist/index.js', *(
        f'core/wasm/litert_wasm{kind}_internal.{suffix}' for kind in ('', '_compat')
        for suffix in ('js', 'wasm'))))
_SECONDS = 300  # for npm


def check_folder(folder: str) -> None:
    """FileNotFoundError unless LiteRT.js was installed in a folder, or none ('') is given."""
    if folder and not all((pathlib.Path(folder) / name).is_file() for name in FILES):
        raise FileNotFoundError(f'litert_js {folder}: no LiteRT.js there; '
                                f'{install_command(folder)} puts it there.')


def install_command(folder: str | os.PathLike[str]) -> str:
    """What brings LiteRT.js into a folder."""
    return f'npm install --prefix {shlex.quote(os.fspath(folder))} {PACKAGE}'


def bring(out_dir: pathlib.Path, folder: str = '') -> str:
    """Copies FILES into a directory: '', or why that could not be done.

    folder: where npm installed PACKAGE; '' has npm fetch it.
    """
    if folder:
        check_folder(folder)
        _copy(pathlib.Path(folder), out_dir)
        return ''
    with tempfile.TemporaryDirectory() as fetched:
        missing = fetch(fetched)
        if not missing:
            _copy(pathlib.Path(fetched), out_dir)
    return missing


def fetch(folder: str | os.PathLike[str]) -> str:
    """Has npm install PACKAGE into a folder: '', or why that could not be done."""
    if shutil.which('npm') is None:
        return 'there is no npm'
    try:
        done = subprocess.run(
            ['npm', 'install', '--prefix', os.fspath(folder), '--no-audit', '--no-fund',
             '--ignore-scripts', PACKAGE], capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f'npm took more than {_SECONDS} s'
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if 'npm error code' not in line]
        return f'npm: {lines[0].removeprefix("npm error ") if lines else done.returncode}'
    return ''


def _copy(source: pathlib.Path, out_dir: pathlib.Path) -> None:
    for name in FILES:
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out_dir / name)
