"""Methods, seeds and budgets: a run each, in a process of its own, several at once.

A cell is a run: a flagfile, a budget, a seed. Cells are planned whole before the first one starts,
so that a wrong flag is found then and not at night. What is finished is skipped, what was stopped
goes on, what fails stops no other.
"""
import asyncio
import dataclasses
import glob
import os
import pathlib
import re
import shlex
import signal
import time
from typing import Any, Callable, Sequence

from tfprune import report
from tfprune.config import LIMITS, check_limit, is_ratio
from tfprune.errors import near
from tfprune.methods.base import Method
from tfprune.methods.names import METHODS, make_method
from tfprune.progress import leave_terminal
from tfprune.report.number_text import duration
from tfprune.run_files import read_config
from tfprune.runs.beforehand import check_files, check_installed
from tfprune.runs.checks import checked_method
from tfprune.runs.config import Config, completed, differing_fields
from tfprune.runs.folder import check_free, has_begun
from tfprune.runs.reuse import differing_before_surgery, other_ratios

_NO_METHOD = ('base',)  # flagfiles that others include
_STOPPED = (129, 130, 143, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        name: of the method's flagfile, the label of its rows.
        arguments: flags of tfprune train, all but run_dir.
        config: what these flags say.
        run_dir: its folder; the log lies beside it.
    """
    name: str
    arguments: tuple[str, ...]
    config: Config
    run_dir: pathlib.Path

    @property
    def log(self) -> pathlib.Path:
        return self.run_dir.with_name(f'{self.run_dir.name}.log')

    @property
    def finished(self) -> bool:
        """Whether it is, and so are the runs of other budgets in its folder."""
        return all((folder / 'report.json').exists() for folder in (
            self.run_dir, *(self.run_dir / 'ratios' / ratio
                            for ratio in other_ratios(self.config, self.run_dir))))

    @property
    def trained_to_surgery(self) -> bool:
        return (self.run_dir / 'dense.keras').exists()


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        methods: names of flagfiles.
        flagfiles: their path, {} in place of the name.
        seeds: numbers.
        budgets: 'target=limit' each; a method that needs none runs once.
        out: the folder of all cells.
        flags: further flags of tfprune train, for every cell, which win over the flagfiles.
    """
    methods: Sequence[str]
    flagfiles: str
    seeds: Sequence[int]
    budgets: Sequence[str]
    out: pathlib.Path
    flags: Sequence[str] = ()


def plan(grid: Grid, read_config: Callable[[Sequence[str]], Config]) -> list[Cell]:
    """The cells of a grid, by budget, method and seed.

    Args:
        read_config: arguments of tfprune train -> configuration.

    Raises:
        ValueError: a wrong name, flag or limit; a folder that belongs to another configuration.
    """
    if '{}' not in grid.flagfiles:
        raise ValueError('method_flagfiles must be a path with {} in place of the method; received '
                         f'{grid.flagfiles!r}.')
    for name, values in (('methods', grid.methods), ('seeds', grid.seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f'{name} must be given, each once; received '
                             f'{",".join(map(str, values))!r}.')
    limits: list[tuple[str, str] | None] = [_limit(text) for text in grid.budgets]
    cells: dict[pathlib.Path, Cell] = {}
    for limit in limits or [None]:
        for name in grid.methods:
            for seed in grid.seeds:
                cell = _cell(grid, name, limit, seed, read_config)
                cells.setdefault(cell.run_dir, cell)
    for cell in cells.values():
        _check_folder(cell)
    return list(cells.values())


def _cell(grid: Grid, name: str, limit: tuple[str, str] | None, seed: int,
          read_config: Callable[[Sequence[str]], Config]) -> Cell:
    path = pathlib.Path(grid.flagfiles.format(name))
    if not path.is_file():
        names = [known for known in _names(grid.flagfiles) if known not in _NO_METHOD]
        raise ValueError(f'Unknown method {name!r}: no {path}. Available: '
                         f'{", ".join(names) or "none"}')
    try:
        arguments, folder = _arguments(grid, path, limit, read_config)
        arguments.append(f'--seed={seed}')
        config = read_config(arguments)
        check_installed(config)
        checked_method(config)
        check_files(config)
        return Cell(name, tuple(arguments), config, grid.out / name / folder / f's{seed}')
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f'{path}: {error}') from None


def _arguments(grid: Grid, path: pathlib.Path, limit: tuple[str, str] | None,
               read_config: Callable[[Sequence[str]], Config]) -> tuple[list[str], str]:
    """(flags of a method's runs, folder of the budget's), '' for the flagfile's own budget where
    no other has a folder.
    """
    own = read_config([f'--flagfile={path}'])
    method = make_method(own.method, own.options)
    arguments = [f'--flagfile={path}', *(
        flag for flag in grid.flags
        # What trains from random weights has none to begin with.
        if not (method.decides_first and flag.startswith(('--initial_weights=',
                                                          '--pretraining_epochs='))))]
    if limit is None or not method.needs_budget:
        return arguments, ''
    target, value = limit
    # The only budget: what the flagfile sets besides is not asked for.
    arguments += [f'--{other}=0' for other in own.costs.limits if other != target]
    folder = f'{target}{value}'
    if method.conditional:
        asked = read_config([*arguments, f'--{target}={value}']).costs.limits[target]
        folder, value = _shared(own, method, target, asked) or (folder, value)
    return [*arguments, f'--{target}={value}'], folder


def _shared(own: Config, method: Method, target: str, limit: float) -> tuple[str, str] | None:
    """(folder, limit) of the run of a conditional method that serves a budget among others, by its
    flagfile alone, so that the run stays the same whatever budgets are asked for; None where the
    budget is none of its search.

    Budgets of the flagfile's target share the run of the flagfile, in the method's own folder;
    those of another target a run in the target's, for the first ratio.
    """
    ratios, limits = method.ratios(), own.costs.limits
    served = is_ratio(target, limit) and limit in ratios
    if list(limits) == [target]:
        return ('', str(limits[target])) if served or limit == limits[target] else None
    return (target, str(ratios[0])) if served else None


def _limit(text: str) -> tuple[str, str]:
    target, equals, limit = (part.strip() for part in text.partition('='))
    if not equals or target not in LIMITS:
        raise ValueError(f'budgets must be target=limit each, target one of {", ".join(LIMITS)}; '
                         f'received {text!r}.{near(target, LIMITS)}')
    try:
        number = float(limit)
    except ValueError:
        raise ValueError(f'budgets: {target} must be a number; received {limit!r}.') from None
    check_limit(target, number)
    return target, limit


def _names(flagfiles: str) -> list[str]:
    """Names that the pattern finds files for."""
    before, after = map(re.escape, flagfiles.split('{}', 1))
    found = (re.fullmatch(f'{before}(.+){after}', path)
             for path in glob.glob(flagfiles.replace('{}', '*')))
    return sorted(match[1] for match in found if match)


def _check_folder(cell: Cell) -> None:
    """ValueError where the folder is a run of other flags: its result is not this cell's; or
    cannot be written to."""
    there = next(path for path in (cell.run_dir, *cell.run_dir.absolute().parents)
                 if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f'out: {there} is no folder that can be written to.')
    rows = []
    if has_begun(cell.run_dir):
        rows = differing_fields(cell.config, read_config(cell.run_dir))
    else:
        check_free(cell.run_dir)
    if rows:
        raise ValueError(f'{cell.run_dir} is a run of another configuration; differing flags: '
                         f'{"; ".join(rows)}. Choose another --out, or remove it.')


class Comparison:
    """Runs cells, several at once, sharing the epochs before surgery of methods that only decide.

    Args:
        cells: of `plan`.
        command: what starts a run, before its flags.
        places: where a cell runs, one at a time in each: a device's number, which becomes
            CUDA_VISIBLE_DEVICES, or ''.
        say: is told of each cell that starts and ends.
        on_end: called after each cell.
    """

    def __init__(self, cells: Sequence[Cell], command: Sequence[str], places: Sequence[str],
                 say: Callable[[str], None] = print, on_end: Callable[[], Any] = lambda: None):
        self.cells, self.command, self.places = cells, command, places
        self.say, self.on_end = say, on_end
        self.failed: dict[Cell, str] = {}  # the last line of its log
        self.signals: list[int] = []  # received
        self._processes: set[asyncio.subprocess.Process] = set()
        self._done, self._seconds = 0, list[float]()

    def run(self) -> None:
        """Runs what is not finished. SIGTERM and SIGINT stop the cells, which save; the second
        kills them.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores hang-ups
                loop.add_signal_handler(number, self._stop, number)
        self._free: asyncio.Queue[str] = asyncio.Queue()
        for place in self.places:
            self._free.put_nowait(place)
        self._done = sum(cell.finished for cell in self.cells)
        left = len(self.cells) - self._done
        if left:
            self.say(f'{left} run{"s" * (left > 1)} to do, {len(self.places)} at a time.')
        if self._done:
            self.say(f'{self._done} of {len(self.cells)} cells are finished.')
        await asyncio.gather(*(self._family(family) for family in families(self.cells)))

    def _left(self) -> str:
        """', about 1 h 5 min left', by the runs so far; '' after the last."""
        left = len(self.cells) - self._done - len(self.failed)
        mean = sum(self._seconds) / len(self._seconds)
        return f', about {duration(mean * left / len(self.places))} left' if left > 0 else ''

    async def _family(self, cells: Sequence[Cell]) -> None:
        """Runs cells whose epochs before surgery are the same: one first, the others after it."""
        left = list(cells)
        source = next((cell for cell in left if cell.trained_to_surgery), None)
        while source is None and len(left) > 1:
            first = left.pop(0)
            await self._finish(first)
            source = first if first.trained_to_surgery else None  # else the next one trains them
        await asyncio.gather(*(self._finish(cell, None if cell is source else source)
                               for cell in left))

    async def _finish(self, cell: Cell, source: Cell | None = None) -> None:
        place = await self._free.get()
        try:
            if not (self.signals or cell.finished):
                await self._train(cell, source, place)
        except (OSError, ValueError) as error:  # no room for its log, a damaged file of it
            self.failed[cell] = str(error)
        finally:
            self._free.put_nowait(place)

    async def _train(self, cell: Cell, source: Cell | None, place: str) -> None:
        command = [*self.command, *cell.arguments, f'--run_dir={cell.run_dir}']
        if source is not None:
            command.append(f'--before_surgery_from={source.run_dir}')
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        # Several may share a GPU: none takes all of its memory at once.
        environment = {**os.environ, **({'CUDA_VISIBLE_DEVICES': place,
                                         'TF_FORCE_GPU_ALLOW_GROWTH': 'true'} if place else {})}
        self.say(f'{cell.run_dir}: started, log {cell.log}')
        begun = time.monotonic()
        with open(cell.log, 'a', encoding='utf-8') as log:
            print(shlex.join(command), file=log, flush=True)
            # In a session of its own: a Ctrl-C comes to it once, through us.
            process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
                env=environment, start_new_session=True)
            self._processes.add(process)
            if self.signals:
                process.terminate()
            code = await process.wait()
            self._processes.discard(process)
        seconds = duration(time.monotonic() - begun)
        if code in _STOPPED and cell.finished:
            code = 0  # the signal came to a run that was done
        if self.signals and code in _STOPPED:
            self.say(f'{cell.run_dir}: stopped')
        elif code or not cell.finished:
            self.failed[cell] = last_line(cell.log) or f'exit code {code}'
            self.say(f'{cell.run_dir}: FAILED after {seconds}: {self.failed[cell]}')
        else:
            self._done += 1
            self._seconds.append(time.monotonic() - begun)
            self.say(f'{cell.run_dir}: done in {seconds} ({self._done} of {len(self.cells)}'
                     f'{self._left()})')
        try:
            self.on_end()
        except Exception as error:  # the other runs go on
            self.say(f'no report: {error}')

    def rows(self, out: pathlib.Path) -> list[dict[str, Any]]:
        """A row a run in `out`, with its cell's name; those of other cells, which lie there from
        another command, come last, and of a cell that failed there is one without a folder, too.

        ValueError names a run whose files are damaged.
        """
        rows: list[dict[str, Any]] = []
        for cell in self.cells:
            error = {'error': self.failed[cell]} if cell in self.failed else {}
            if cell.run_dir.is_dir():
                rows += [row | ({} if row['finished'] else error)
                         for row in _rows(cell.run_dir, out)]
            elif error:
                rows.append({'run': str(cell.run_dir.relative_to(out)), 'cell': cell.name,
                             'finished': False, 'configuration': {}, 'epochs': None, **error,
                             **{name: cell.config.to_json()[name]
                                for name in ('seed', 'method', 'model', 'dataset')}})
        planned = {cell.run_dir for cell in self.cells}
        others = {file.parent for pattern in ('*/s*', '*/*/s*')
                  for file in out.glob(f'{pattern}/config.json')}
        return rows + [row for folder in sorted(others - planned) for row in _rows(folder, out)]

    def _stop(self, number: int) -> None:
        self.signals.append(number)
        if number == signal.SIGHUP:
            leave_terminal()
        self.say('stopping as soon as all is saved ...' if len(self.signals) == 1 else 'killing')
        for process in self._processes:
            if len(self.signals) == 1:
                process.terminate()
            else:
                process.kill()


def families(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by what they train before surgery, those that are waited for first; one whose method
    acts there is alone.
    """
    found: list[list[Cell]] = []
    shared: list[list[Cell]] = []
    for cell in cells:
        if not (cell.config.epochs.search and METHODS[cell.config.method].only_decides):
            found.append([cell])
            continue
        for family in shared:
            if not differing_before_surgery(cell.config, family[0].config.to_json()):
                family.append(cell)
                break
        else:
            shared.append([cell])
    return shared + found


def _rows(run_dir: pathlib.Path, out: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a run and, if it is one that budgets share, of those in its ratios/."""
    folder = run_dir.relative_to(out).parent
    rows = report.run_rows(run_dir)
    if len(folder.parts) > 1 and folder.parts[1] not in LIMITS:
        del rows[1:]  # the shared run has them
    return [completed(row) | {'run': f'{folder}/{row["run"]}', 'cell': folder.parts[0]}
            for row in rows]


def last_line(log: pathlib.Path) -> str:
    """The last line of a log that says something; '' if none does."""
    text = log.read_text(encoding='utf-8', errors='replace') if log.exists() else ''
    lines = [line.strip() for line in re.split(r'[\r\n]+', text) if line.strip()]
    return lines[-1] if lines else ''
