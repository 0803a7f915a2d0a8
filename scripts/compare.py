"""Methods × seeds × budgets, each a run of scripts/train.py; rows, table, curves.

python scripts/compare.py --flagfile=flags/compare_digits.flags

The same as `tfprune compare`: tfprune/commands/compare.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('compare')
