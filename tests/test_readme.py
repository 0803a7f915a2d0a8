"""README and the pages beside the code: short, and every path in them is there."""
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'flags/README.md', ROOT / 'flags/EARLIER.md',
         *sorted(ROOT.glob('tfprune/**/README.md'))]
DEPLOY = sorted(ROOT.glob('tfprune/export/deploy/[a-z]*.md'))
LINK = re.compile(r'\]\(([^)#\s]+)(#[^)]*)?\)|src="([^"]+)"')
# Paths of the repository in code and prose; a pattern stands for several.
PATH = re.compile(r'\b((?:tfprune|flags|tests|scripts)/[\w./*]*\w)')


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 200


@pytest.mark.parametrize('page', [*PAGES, *DEPLOY], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    targets = [match[1] or match[3] for match in LINK.finditer(text)]
    wrong = [target for target in targets if not target.startswith('https://')
             and not (page.parent / target).exists()]
    wrong += [path for path in PATH.findall(re.sub(r'https?://\S+', '', text))
              if not path.endswith('X.flags') and not list(ROOT.glob(path))]
    assert not wrong


def test_the_readme_leads_to_every_page():
    text = (ROOT / 'README.md').read_text()
    assert [page for page in PAGES[1:] if str(page.relative_to(ROOT)) not in text] == []


def test_flagfiles_have_headers_and_rows_their_place():
    done = subprocess.run(['git', 'ls-files', 'flags'], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in done.stdout.split()] or list((ROOT / 'flags').rglob('*.*'))
    for path in files:
        if path.suffix == '.flags':
            assert path.read_text().startswith('#'), path
        if path.suffix == '.jsonl':
            assert path.parent.name == 'results', path
            assert '"initial_weights": "/' not in path.read_text(), path  # of one machine
