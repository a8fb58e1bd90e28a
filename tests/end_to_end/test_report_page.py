"""Claims about a report's page in a real browser: it draws, sorts, filters, and never executes texts."""

import csv
import json

import numpy as np
import pytest

from analysis import report
from mbkd.config import Config, Distill, Student, Task
from tests.synthetic import labels_of, write_run

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LABELS = ("<b>good</b>", "bad & worse", "$so$")
ROWS = 30
# Maximum size of this report; a real report has more tables and figures, but no more rows than errors.ITEMS.
MEGABYTES = 2


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two systems with two seeds on a task whose texts and labels are hostile."""
    root = tmp_path_factory.mktemp("runs <i>")
    languages = ("en", "fr", "de", "ar")
    for split in ("train", "dev", "test"):
        with (root / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["text", "label", "language", "id"])
            for x in languages:
                for row, label in enumerate(labels_of("own", split, x, ROWS, len(LABELS))):
                    lines.writerow([f"{x} text {row} {EVIL}", LABELS[label], x, f"{split}-{x}-{row}"])
    task = Task(
        kind="own",
        files={split: str(root / f"{split}.csv") for split in ("train", "dev", "test")},
        columns={"id": "id"},
        labels=LABELS,
        ordinal=True,
        supervised=languages[:2],
        zero_shot=languages[2:],
    )
    for depth, share in ((0, 0.5), (1, 0.6), (2, 0.7)):
        for seed in (1, 2):
            student = Student(backbone="a/model", branch_depth=depth)
            config = Config(task=task, student=student, distill=Distill(signal="labels"), seed=seed)
            correct = {s: {x: np.arange(ROWS) < share * ROWS - seed for x in languages} for s in ("dev", "test")}
            folder = write_run(root, config, correct)
            record = {"step": 20, "epoch": 0.5, "languages": {"en": {"loss": 1.0, "kl": 0.0}}}
            (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
            rows = [
                {"language": x, "mixer": "outer", "branch": y, "mean": 0.5} for x in languages for y in languages[:2]
            ]
            if depth:
                weights = {"split": "dev", "branches": ["en", "fr"], "rows": rows}
                (folder / "mixers-dev-1.json").write_text(json.dumps(weights))
    out = root / "report"
    report.main([str(root), "--out", str(out), "--draws", "1000"])
    return out / "report.html"


@pytest.fixture
def opened(browser, page):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get("about:blank")
    browser.get_log("browser")  # one browser serves all tests, so messages of other pages are discarded
    browser.get(page.as_uri())
    return browser


def test_the_page_is_one_file_of_a_few_megabytes(page):
    text = page.read_text(encoding="utf-8")
    assert len(text) < MEGABYTES * 1e6
    assert "http-equiv" in text
    loads = [x for x in ("<link", "@import", "src=") if x in text.replace("&lt;img src=x", "").replace("img-src", "")]
    assert not loads
    assert all(file.stat().st_size > 1000 for file in (page.parent / "figures").iterdir())


def test_the_page_has_no_error_and_draws_every_figure(opened, page):
    assert opened.get_log("browser") == []
    keys = {file.stem for file in (page.parent / "figures").glob("*.svg")}
    assert {key.split("-")[0] for key in keys} == {
        "languages", "depth", "confusion", "distances", "curves", "mixers", "reliability",
    }  # fmt: skip
    for key in keys:
        box = opened.execute_script(
            "const svg = document.querySelector(`figure[id='${arguments[0]}'] svg`);"
            "const box = svg.getBoundingClientRect();"
            "return [box.width, box.height, svg.querySelectorAll('path').length, svg.getAttribute('aria-label')]",
            key,
        )
        assert box[0] > 200 and box[1] > 100 and box[2] > 5 and box[3]


def test_texts_and_labels_are_shown_and_never_executed(opened):
    assert opened.execute_script("return window.hacked") is None
    assert opened.execute_script("return document.querySelectorAll('img, b b').length") == 0
    first = opened.execute_script("return document.querySelector('.items .text').textContent")
    assert EVIL in first
    labels = opened.execute_script(
        "return [...document.querySelectorAll('[data-filter=label] option')].map(x => x.value)"
    )
    assert set(LABELS) <= set(labels)
    # An injected script would not run, because the page allows one script only.
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 2'; document.body.append(s)"
    )
    assert opened.execute_script("return window.hacked") is None
    opened.get_log("browser")  # that refusal


VISIBLE = """
return [...document.querySelector('.items').querySelectorAll('tbody tr')].filter(row => !row.hidden)
  .map(row => [row.cells[0].textContent, row.cells[1].textContent, Number(row.cells[3].dataset.value)])
"""
TYPE = """
const field = document.querySelector(`.items [data-filter=${arguments[0]}]`);
field.value = arguments[1];
field.dispatchEvent(new Event("input"));
"""


def test_rows_are_sorted_by_a_click(opened):
    from selenium.webdriver.common.by import By

    def click(name):
        (button,) = [x for x in opened.find_elements(By.CSS_SELECTOR, ".items th button") if x.text.startswith(name)][
            :1
        ]
        opened.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", button)
        return opened.execute_script(VISIBLE)

    largest_first = [value for *_, value in opened.execute_script(VISIBLE)]
    assert [abs(x) for x in largest_first] == sorted(map(abs, largest_first), reverse=True)
    for order in (-1, 1):
        values = [value for *_, value in click("difference")]
        assert values == sorted(values, key=lambda x: order * x)
    for backwards in (False, True):
        languages = [language for language, *_ in click("language")]
        assert languages == sorted(languages, reverse=backwards)
    sorting = "return [...document.querySelectorAll('.items th')].map(x => x.getAttribute('aria-sort')).filter(x => x)"
    assert opened.execute_script(sorting) == ["descending"]


def test_rows_are_filtered_by_language_label_and_text(opened):
    everything = opened.execute_script(VISIBLE)
    opened.execute_script(TYPE, "language", "de")
    german = opened.execute_script(VISIBLE)
    assert german == [row for row in everything if row[0] == "de"]
    opened.execute_script(TYPE, "label", LABELS[0])
    good = opened.execute_script(VISIBLE)
    assert good == [row for row in german if row[1] == LABELS[0]]
    assert 0 < len(good) < len(german) < len(everything)
    opened.execute_script(TYPE, "label", "")
    opened.execute_script(TYPE, "text", "TEXT 11 ")
    assert len(opened.execute_script(VISIBLE)) == 1
    count = opened.execute_script("return document.querySelector('.items output').textContent")
    assert count == f"1 of {len(everything)} rows"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_element_exceeds_the_page(opened, width, scheme):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    wide = opened.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    page, ink = opened.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('figure svg text')).fill]"
    )
    brightness = [sum(map(int, color[4:-1].split(", "))) for color in (page, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
