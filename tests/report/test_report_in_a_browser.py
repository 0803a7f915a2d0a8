"""The pages on a phone, in a headless Chromium: nothing is wider than the screen but what scrolls
in a box of its own."""
import html
import json
import re
import subprocess

import litert_js
import pytest
from made_up_layers import LAYERS
from made_up_runs import html_of, make_run

from tfprune import report

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
PHONE = 420  # pixels
SCRIPT = '''
const frame = document.querySelector("iframe"), seen = frame.contentDocument;
const boxes = [...seen.querySelectorAll(".scroll")];
document.body.textContent = "@" + JSON.stringify({
    inner: frame.contentWindow.innerWidth, wide: seen.documentElement.scrollWidth,
    scrolled: boxes.filter(box => box.scrollWidth > box.clientWidth).length,
    letters: Math.min(...[...seen.querySelectorAll("svg text")].map(text => {
        const to = text.getScreenCTM();
        return Math.hypot(to.a, to.b) * parseFloat(getComputedStyle(text).fontSize);
    }))}) + "@";
'''


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """A page -> its width in a window of PHONE pixels, how many boxes scroll in it, and the size
    of the smallest letters of a plot in pixels."""
    try:
        browser = litert_js.find_browser()
    except litert_js.Missing as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp('browser')

    def measure(page):
        path = folder / 'frame.html'  # a window has a least width, a frame has none
        path.write_text(f'<meta charset="utf-8"><body><iframe srcdoc="{html.escape(page)}" '
                        f'style="width: {PHONE}px; height: 900px; border: 0"></iframe>'
                        f'<script>onload = () => {{{SCRIPT}}}</script>')
        done = subprocess.run(
            [browser, *litert_js.FLAGS, '--hide-scrollbars', '--dump-dom',
             f'--user-data-dir={folder}/profile', path.as_uri()],
            capture_output=True, text=True, timeout=120)
        found = re.search('@(.*)@', done.stdout)
        assert found, done.stderr[-2000:]
        return json.loads(html.unescape(found[1]))
    return measure


def test_what_is_too_wide_is_seen(measured):
    assert measured('<div style="width: 600px">wide</div>')['wide'] >= 600


def test_a_report_fits_on_a_phone(measured, tmp_path):
    run = make_run(tmp_path / 'run', class_names=['cat', 'a class with a long name' * 4],
                   environment={'command': 'x' * 300, 'cores': 2})
    (run / 'layers.json').write_text(json.dumps(LAYERS))
    seen = measured(html_of(run))
    assert (seen['inner'], seen['wide']) == (PHONE, PHONE)
    assert 8 <= seen['letters'] < 20


def test_a_comparison_fits_on_a_phone(measured, tmp_path):
    rows = []
    for method in ('rlal', 'uniform', 'random', 'magnitude', 'amc', 'cacp', 'dense'):
        groups = [{'name': f'stage{n}/conv1', 'dense_width': 8, 'width': 4} for n in range(40)]
        run = make_run(tmp_path / method, method, **({} if method == 'dense'
                                                     else {'groups': groups}))
        rows += [{**row, 'cell': f'{method}_of_a_long_name'} for row in report.run_rows(run)]
    seen = measured(report.comparison_html(rows))
    assert (seen['inner'], seen['wide']) == (PHONE, PHONE)
    assert seen['scrolled'] >= 2  # the table, and the widths of 40 groups
    assert 8 <= seen['letters'] < 20
