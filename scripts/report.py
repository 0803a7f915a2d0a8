"""Runs together: one line a configuration, mean and standard deviation over seeds.

python scripts/report.py 'runs/rlal_s*' 'runs/uniform_s*' --format=markdown --out=rows.jsonl

The same as `tfprune report`: tfprune/commands/report.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('report')
