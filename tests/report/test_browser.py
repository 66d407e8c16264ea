"""The report in a real browser: headless Chromium, from file://, with the network off."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from report.made_artifacts import NASTY, make_all, make_study, make_three_models
from suture.pipeline import artifact
from suture.report.page import find_artifacts, report

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
)
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
SECONDS = 20


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "no chromium and chromedriver on the PATH"
        if os.environ.get("SUTURE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    profile = tempfile.mkdtemp(prefix="suture-chromium-")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, NO_NETWORK, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_all(tmp_path_factory.mktemp("artifacts"), n_features=120)


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return report(out, find_artifacts(folder), title="Two models", commands=["suture demo"]).as_uri()


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    theme(browser, "light")
    browser.get_log("browser")
    browser.get(address)
    yield browser
    # Whatever a test did, the page must not have complained, asked for anything, or run a text.
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert browser.title == "Two models"


def theme(browser: webdriver.Chrome, value: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": value}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def rows(page: webdriver.Chrome) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, "#rows tr.feature")


def shown_features(page: webdriver.Chrome) -> list[int]:
    return page.execute_script("return [...document.querySelectorAll('#rows tr.feature')].map(r => +r.dataset.feature)")


def header(page: webdriver.Chrome, column: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, f"#head [data-column={column}]")


def columns(folder: Path, name: str) -> dict[str, list]:
    return artifact.read_json(folder / name / "columns.json")["columns"]


def test_opens_and_draws_every_figure(page: webdriver.Chrome) -> None:
    undrawn = (
        "return [...document.querySelectorAll('.plot')].filter(b => b.offsetWidth && !b.querySelector('svg')).length"
    )
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(undrawn) == 0)
    assert page.execute_script("return document.querySelectorAll('.plot svg.main-svg').length") > 0
    assert len(rows(page)) == 25
    assert page.find_element(By.ID, "where").text == "1–25 of 120 features"
    script = files("suture.report").joinpath("report.js").read_text(encoding="utf-8")
    own = sorted(set(re.findall(r"(?:function|const|let) (\w+)", script)))
    assert len(own) > 30
    leaked = (
        "const f = document.createElement('iframe'); document.body.append(f); const bare = f.contentWindow; f.remove()"
    )
    leaked += "; return arguments[0].filter(name => Object.hasOwn(window, name) && !(name in bare))"
    assert page.execute_script(leaked, own) == []


def test_training_curves_are_drawn_when_opened(page: webdriver.Chrome) -> None:
    page.execute_script("document.querySelector('#designs details').open = true")
    page.execute_script("document.querySelector('#designs details').scrollIntoView({behavior: 'instant'})")
    drawn = "const b = document.querySelector('#designs .plot svg'); return b ? b.getBoundingClientRect().width : 0"
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(drawn) > 200)


def test_sorting(page: webdriver.Chrome, folder: Path) -> None:
    rate = columns(folder, "features-crosscoder")["rate"]
    header(page, "rate").click()
    assert header(page, "rate").find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    expected = sorted(range(120), key=lambda i: (-round(rate[i], 12), i))[:25]
    assert [rate[i] for i in shown_features(page)] == pytest.approx([rate[i] for i in expected], rel=1e-3)
    header(page, "rate").click()
    assert header(page, "rate").find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    assert [rate[i] for i in shown_features(page)] == pytest.approx(sorted(rate)[:25], rel=1e-3)
    assert page.switch_to.active_element.get_attribute("data-column") == "rate"


def test_features_without_the_number_come_last_either_way(page: webdriver.Chrome, folder: Path) -> None:
    mean = columns(folder, "features-crosscoder")["mean_active"]
    assert None in mean
    for _ in range(2):
        header(page, "mean_active").click()
        assert None not in [mean[i] for i in shown_features(page)]
    while page.find_element(By.ID, "next").is_enabled():
        page.find_element(By.ID, "next").click()
    assert mean[shown_features(page)[-1]] is None


def test_sorting_by_a_column_that_is_not_shown(page: webdriver.Chrome, folder: Path) -> None:
    q999 = [v if v is not None else -1 for v in columns(folder, "features-crosscoder")["q999"]]
    page.find_element(By.CSS_SELECTOR, "#sort option[value=q999]").click()
    assert [q999[i] for i in shown_features(page)] == pytest.approx(sorted(q999, reverse=True)[:25], rel=1e-3)


def test_filtering_by_label(page: webdriver.Chrome, folder: Path) -> None:
    labels = columns(folder, "features-crosscoder")["label"]
    for label in ("shared", "A", "ambiguous", "dead"):
        button = page.find_element(By.CSS_SELECTOR, f"#labels [data-label={label}]")
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
    assert shown_features(page) == [i for i, label in enumerate(labels) if label == "B"][:25]
    page.find_element(By.CSS_SELECTOR, "#labels [data-label=B]").click()
    assert shown_features(page) == []
    assert page.find_element(By.ID, "where").text == "No feature fits"


def test_searching_tokens(page: webdriver.Chrome) -> None:
    page.find_element(By.ID, "search").send_keys("averyVeryverylongtoken")
    WebDriverWait(page, SECONDS).until(lambda d: d.find_element(By.ID, "where").text != "1–25 of 120 features")
    assert shown_features(page) == []  # nine tokens after the peak: outside of what the page keeps
    page.find_element(By.ID, "search").clear()
    page.find_element(By.ID, "search").send_keys("“QUOTES” &")
    WebDriverWait(page, SECONDS).until(lambda d: shown_features(d) == [0])


def test_detail_opens_by_keyboard_and_shows_markup_as_text(page: webdriver.Chrome) -> None:
    button = page.find_element(By.CSS_SELECTOR, "[data-open='0']")
    page.execute_script("arguments[0].focus()", button)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    panel = page.find_element(By.CSS_SELECTOR, "#detail-0 .panel")
    text = panel.get_attribute("textContent")
    assert text is not None
    for token in NASTY[:4]:
        assert token in text
    assert "line↵break" in text
    assert "⇥tab" in text
    assert panel.find_elements(By.CSS_SELECTOR, "script, img, b:not(.letter)") == []
    opened = page.switch_to.active_element
    assert opened.get_attribute("data-open") == "0"
    assert opened.get_attribute("aria-expanded") == "true"
    assert len(panel.find_elements(By.CSS_SELECTOR, ".example")) == 4
    assert panel.find_elements(By.CSS_SELECTOR, ".side-a .on")
    assert panel.find_elements(By.CSS_SELECTOR, ".side-b .peak")
    opened.send_keys(Keys.ENTER)
    assert page.find_elements(By.ID, "detail-0") == []


def test_the_first_tab_skips_to_the_answer(page: webdriver.Chrome) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("href").endswith("#answer")


def test_another_dictionary(page: webdriver.Chrome, folder: Path) -> None:
    page.find_element(By.CSS_SELECTOR, "#pick option[value='1']").click()
    assert page.find_elements(By.CSS_SELECTOR, "#head [data-column=usage_share]")
    assert not page.find_elements(By.CSS_SELECTOR, "#head [data-column=refit_share]")
    n_shared = columns(folder, "features-pooled")["label"].count("shared")
    assert page.find_element(By.CSS_SELECTOR, "#labels [data-label=shared] small").text == str(n_shared)


def test_a_steered_feature_leads_to_its_row(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, "#labels [data-label=shared]").click()
    page.execute_script("arguments[0].click()", page.find_element(By.CSS_SELECTOR, "[data-go-feature='3']"))
    assert page.find_element(By.ID, "detail-3")
    assert page.switch_to.active_element.get_attribute("data-open") == "3"


def test_a_phone_never_scrolls_sideways(page: webdriver.Chrome) -> None:
    phone = {"width": 375, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.execute_script("document.querySelector('[data-open=\"0\"]').click()")
    assert page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]") == [375, 375]
    panel = "const p = document.querySelector('#detail-0 .panel').getBoundingClientRect(); return [p.left, p.right]"
    left, right = page.execute_script(panel)
    assert left >= 0
    assert right <= 375


def test_figures_follow_their_boxes(page: webdriver.Chrome) -> None:
    unfit = "return [...document.querySelectorAll('.plot')].filter(b => b.checkVisibility() && !(b.querySelector('svg')"
    unfit += " && Math.abs(b.querySelector('svg').getBoundingClientRect().width - b.clientWidth) <= 1)).length"
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(unfit) == 0)
    # only the boxes: a window that changes while Plotly draws tells it nothing either
    page.execute_script("document.querySelector('main').style.maxWidth = '375px'")
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(unfit) == 0)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(unfit) == 0)


def test_dark_mode(page: webdriver.Chrome) -> None:
    def brightness(css: str) -> float:
        background = page.execute_script(f"return getComputedStyle(document.body).{css}")
        return sum(float(v) for v in background[background.index("(") + 1 : -1].split(",")[:3]) / 3

    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script("return !!document.querySelector('.plot svg')"))
    tick = "return getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    assert brightness("backgroundColor") > 200
    light_tick = page.execute_script(tick)
    theme(page, "dark")
    assert brightness("backgroundColor") < 50
    assert brightness("color") > 200
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(tick) != light_tick)


# ---- a study, and more than two models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study_content(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    folder = tmp_path_factory.mktemp("study")
    content = make_study(folder / "study")
    return content, report(folder / "report.html", find_artifacts(folder), title="Two models").as_uri()


@pytest.fixture
def study(page: webdriver.Chrome, study_content: tuple[dict, str]) -> webdriver.Chrome:
    page.get(study_content[1])
    return page


def design_order(page: webdriver.Chrome) -> list[int]:
    ordinals = "return [...document.querySelectorAll('.designs tbody .ordinal')].map(o => Number(o.textContent) - 1)"
    return page.execute_script(ordinals)


def sort_by(page: webdriver.Chrome, title: str) -> WebElement:
    button = next(
        b
        for b in page.find_elements(By.CSS_SELECTOR, ".designs thead button")
        if b.get_attribute("textContent") == title
    )
    page.execute_script("arguments[0].focus()", button)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    return button.find_element(By.XPATH, "..")


def settled_width(page: webdriver.Chrome) -> list[int]:
    """[width of the content, width of the page] once twenty frames in a row agree."""
    look = (
        "const done = arguments[0], root = document.documentElement, look = () => [root.scrollWidth, root.clientWidth];"
        "let last = '', same = 0;"
        "const next = () => { const now = JSON.stringify(look()); same = now === last ? same + 1 : 0; last = now;"
        "if (same > 20) done(look()); else requestAnimationFrame(next); }; next();"
    )
    return page.execute_async_script(look)


def test_study_sorts_by_a_number_from_the_keyboard(study: webdriver.Chrome, study_content: tuple[dict, str]) -> None:
    content, _ = study_content
    designs = content["designs"]
    mean = {i: content["summary"][d["name"]]["macro_f1"]["mean"] for i, d in enumerate(designs) if not d["skipped"]}
    skipped = [i for i, d in enumerate(designs) if d["skipped"]]
    assert design_order(study) == list(range(len(designs)))
    head = sort_by(study, "Macro-F1")
    assert head.get_attribute("aria-sort") == "descending"
    assert design_order(study) == [*sorted(mean, key=lambda i: -mean[i]), *skipped]
    sort_by(study, "Macro-F1")
    assert head.get_attribute("aria-sort") == "ascending"
    assert design_order(study) == [*sorted(mean, key=lambda i: mean[i]), *skipped]
    sort_by(study, "Design")
    assert design_order(study) == list(range(len(designs)))


def test_study_columns_come_and_go_in_groups(study: webdriver.Chrome) -> None:
    toggles = study.find_elements(By.CSS_SELECTOR, ".study-table .toggles button")
    assert toggles[0].get_attribute("aria-pressed") == "true"
    box = study.find_element(By.CSS_SELECTOR, ".study-table .scroll")
    assert study.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", box)
    shown = (
        "return [...document.querySelectorAll('.designs tbody tr:first-child td')].filter(c => c.offsetWidth).length"
    )
    n = study.execute_script(shown)
    assert toggles[1].get_attribute("aria-pressed") == "false"
    toggles[1].click()
    assert study.execute_script(shown) == n + 5
    toggles[0].click()
    assert study.execute_script(shown) == 5
    sort_by(study, "L0")
    assert design_order(study)[-1] == 3  # the skipped one
    lefts = (
        "return [...document.querySelectorAll('.designs tbody tr')].map(r => r.cells[0].getBoundingClientRect().left)"
    )
    toggles[0].click()
    study.execute_script("arguments[0].scrollLeft = 300", box)
    edge = study.execute_script("return arguments[0].getBoundingClientRect().left", box)
    assert study.execute_script(lefts) == pytest.approx([edge + 1] * 10, abs=1.5)  # the names stay


def test_study_draws_the_number_chosen(study: webdriver.Chrome, study_content: tuple[dict, str]) -> None:
    content, _ = study_content
    box = study.find_element(By.ID, "study-0-dots")
    study.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", box)
    drawn = "return arguments[0].querySelector('svg') ? arguments[0].data.slice(1).flatMap(t => [...t.x]) : []"

    def shows(key: str) -> bool:
        means = [one[key]["mean"] for one in content["summary"].values()]
        return sorted(study.execute_script(drawn, box)) == pytest.approx(sorted(means), rel=1e-3)

    WebDriverWait(study, SECONDS).until(lambda _: shows("macro_f1"))
    select = study.find_element(By.CSS_SELECTOR, "[data-figure-of='study-0-dots']")
    for option in select.find_elements(By.TAG_NAME, "option"):
        if option.text.startswith("FVU B"):
            option.click()
    WebDriverWait(study, SECONDS).until(lambda _: shows("fvu_B"))
    assert str(box.get_attribute("aria-label")).startswith("FVU B")


def test_study_names_are_texts_in_figures_too(study: webdriver.Chrome) -> None:
    box = study.find_element(By.ID, "study-0-dots")
    study.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", box)
    ticks = "return [...arguments[0].querySelectorAll('.ytick text')].map(t => t.textContent).join('|')"
    WebDriverWait(study, SECONDS).until(lambda _: "<script>alert(1)" in study.execute_script(ticks, box))


@pytest.mark.parametrize("what", ["study", "three"])
def test_study_and_three_models_fit_a_phone(
    page: webdriver.Chrome, study_content: tuple[dict, str], three_models: str, what: str
) -> None:
    phone = {"width": 375, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    page.get(study_content[1] if what == "study" else three_models)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.execute_script("document.querySelector('[data-open=\"0\"]')?.click()")
    undrawn = "return [...document.querySelectorAll('.plot')].filter(b => b.offsetWidth && !b.querySelector('svg'))"
    WebDriverWait(page, SECONDS).until(lambda d: not d.execute_script(undrawn))
    assert settled_width(page) == [375, 375]
    wide = (
        "return [...document.querySelectorAll('#study *, #shares *, #answer *')]"
        ".filter(e => !e.closest('.scroll, .plot') && e.getBoundingClientRect().right > 375.5)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert page.execute_script(wide) == []


def test_study_in_the_dark(study: webdriver.Chrome) -> None:
    box = study.find_element(By.ID, "study-0-against")
    study.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", box)
    WebDriverWait(study, SECONDS).until(lambda _: box.find_elements(By.CSS_SELECTOR, ".point"))
    inks = (
        "const css = (q, p) => getComputedStyle(document.querySelector(q))[p];"
        "return [css('#study-0-against .point', 'fill'), css('#study-0-against .textpoint text', 'fill'),"
        " css('.designs tbody th', 'backgroundColor'), css('.standing.best', 'backgroundColor')]"
    )
    light = study.execute_script(inks)
    theme(study, "dark")

    def all_changed(_: webdriver.Chrome) -> bool:
        return all(a != b for a, b in zip(light, study.execute_script(inks), strict=True))

    WebDriverWait(study, SECONDS).until(all_changed)


@pytest.fixture(scope="module")
def three_models(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_three_models(tmp_path_factory.mktemp("three"))
    return report(folder / "report.html", find_artifacts(folder), title="Two models").as_uri()


def test_three_models_in_the_feature_table(page: webdriver.Chrome, three_models: str) -> None:
    page.get(three_models)
    for letter in "ABC":
        assert header(page, f"refit_share_{letter}").text == f"Refit share of {letter}"
    assert not page.find_elements(By.CSS_SELECTOR, "#head [data-column^=decoder_share]")
    assert page.find_elements(By.CSS_SELECTOR, "#rows .track .range")
    chips = [c.text for c in page.find_elements(By.CSS_SELECTOR, "#labels .chip")]
    assert chips[:7] == ["shared", "only A", "only B", "only C", "only A and B", "only A and C", "only B and C"]
    page.execute_script("document.querySelector('[data-open=\"0\"]').click()")
    panel = page.find_element(By.CSS_SELECTOR, "#detail-0 .panel")
    assert len(panel.find_elements(By.CSS_SELECTOR, ".example .side-other")) == 1
    facts = panel.find_element(By.CSS_SELECTOR, ".facts").text
    assert "Refit share of C (95 %)" in facts
    assert "low" not in facts
    drawn = "return document.querySelectorAll('#shares [data-figure=\"simplex-0\"] .scatterlayer path').length"
    page.execute_script("document.querySelector('[data-figure=\"simplex-0\"]').scrollIntoView({behavior: 'instant'})")
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(drawn) > 50)
