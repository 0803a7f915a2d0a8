"""The machine and the software that something ran on."""
import os
import pathlib
import platform
import resource
import subprocess
import sys
from importlib import metadata
from typing import Any

_PACKAGES = ('tensorflow', 'keras', 'tf-agents', 'tf-keras', 'tensorflow-probability',
             'tensorflow-datasets', 'tensorflow-model-optimization', 'numpy')


def describe_environment() -> dict[str, Any]:
    """Command, versions, hardware and, in a checkout, the commit."""
    return {'command': ' '.join(sys.argv), 'python': platform.python_version(),
            'packages': {name: _version(name) for name in ('tfprune', *_PACKAGES)},
            'commit': _commit(), 'platform': platform.platform(), 'processor': processor(),
            'cores': os.cpu_count()}


def machine_name() -> str:
    """Processor and cores, by which measurements of one kind of machine are told from others."""
    return f'{processor() or platform.machine()}, {os.cpu_count()} cores'


def peak_process_bytes() -> int:
    """The most memory that this process has held so far (resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def processor() -> str:
    """Name of the processor; '' where the system does not tell."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    checkout = pathlib.Path(__file__).parent.parent
    # Installed, the package may lie inside a repository that is not its own.
    if not (checkout / '.git').exists():
        return None
    try:
        done = subprocess.run(['git', 'describe', '--always', '--dirty', '--abbrev=12'],
                              cwd=checkout, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None
