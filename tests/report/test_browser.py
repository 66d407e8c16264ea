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

from report.made_artifacts import NASTY, make_all
from suture import artifact
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
