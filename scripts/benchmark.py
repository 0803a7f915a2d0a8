"""Measures tfprune itself and its files; each row is printed and written as soon as it is there.

python scripts/benchmark.py --suite=applications --out=applications.jsonl

The same as `tfprune benchmark`: tfprune/commands/benchmark.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('benchmark')
