"""The linked maps of a matching in a real browser: what is done to one side is done to the other, by mouse and keys."""

import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from report.made_matching import make_matching
from report.test_browser import SECONDS, browser, theme  # noqa: F401
from suture.matching.kinds import KINDS
from suture.matching.match import Matching
from suture.report.matching import coverage_figure
from suture.report.page import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Matching:
    path = tmp_path_factory.mktemp("matching") / "matching"
    make_matching(path)
    return Matching.load(path)


@pytest.fixture(scope="module")
def address(found: Matching, tmp_path_factory: pytest.TempPathFactory) -> str:
    assert found.path is not None
    return report(tmp_path_factory.mktemp("page") / "r.html", [found.path]).as_uri()


def opened(chrome: webdriver.Chrome, address: str) -> webdriver.Chrome:
    theme(chrome, "light")
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chrome.get("about:blank")
    chrome.get_log("browser")
    chrome.get(address)
    ready = "return document.querySelector('[data-matching]').dataset.ready"
    WebDriverWait(chrome, SECONDS).until(lambda d: d.execute_script(ready) == "1")
    chrome.execute_script("document.querySelector('.maps').scrollIntoView({behavior: 'instant', block: 'center'})")
    return chrome


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:  # noqa: F811
    yield opened(browser, address)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def canvas(page: webdriver.Chrome, side: int) -> Any:
    return page.find_elements(By.CSS_SELECTOR, ".map canvas:last-child")[side]


def says(page: webdriver.Chrome, side: int) -> str:
    return page.find_elements(By.CSS_SELECTOR, ".map-says")[side].text


def pairs(page: webdriver.Chrome) -> list[int]:
    return page.execute_script(
        "const list = document.querySelector('.mirrored');"
        "return [...list.querySelectorAll('[data-pair]')].map(r => +r.dataset.pair)"
    )


def listed(found: Matching) -> np.ndarray:
    """Features of A that the page lists."""
    table = found.features_a
    return np.flatnonzero((table["partner"] >= 0) & ~np.isin(list(table["kind"]), ["none", "silent"]))


def test_pairs_are_sorted_by_disagreement_and_lie_side_by_side(page: webdriver.Chrome, found: Matching) -> None:
    table = found.features_a
    own = listed(found)
    apart = 1 - np.round(table["jaccard"][own], 2)
    expected = own[np.lexsort((own, -apart))][:100]
    assert pairs(page) == expected.tolist()
    two = page.execute_script(
        "return [...document.querySelectorAll('.mirrored')[1].querySelectorAll('button')].map(b => b.textContent)"
    )
    assert two == [f"B.{int(table['partner'][i])}" for i in expected]
    tops = (
        "return [...document.querySelectorAll('.mirrored')]"
        ".map(b => b.querySelectorAll('tbody tr')[4].getBoundingClientRect().top)"
    )
    assert len(set(page.execute_script(tops))) == 1, "a pair is on one line"
    page.execute_script("document.querySelectorAll('.mirrored')[1].scrollTop = 300")
    both = "return [...document.querySelectorAll('.mirrored')].map(b => b.scrollTop)"
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(both) == [300, 300])


def test_a_feature_is_reached_and_pinned_by_keys_and_its_partner_lights_up(
    page: webdriver.Chrome, found: Matching
) -> None:
    canvas(page, 0).send_keys(Keys.ARROW_RIGHT)
    first = re.match(r"A\.(\d+) ", says(page, 0))
    assert first is not None
    feature = int(first.group(1))
    partner = int(found.features_a["partner"][feature])
    assert says(page, 1).startswith(f"B.{partner} ")
    canvas(page, 0).send_keys(Keys.ARROW_RIGHT)
    assert not says(page, 0).startswith(f"A.{feature} ")
    canvas(page, 0).send_keys(Keys.ARROW_LEFT, Keys.ENTER)
    panel = page.find_element(By.CSS_SELECTOR, ".pinned")
    WebDriverWait(page, SECONDS).until(lambda _: panel.is_displayed())
    pinned = int(re.findall(r"A\.(\d+) ", panel.text)[0])
    assert found.examples is not None
    values = [v.text for v in panel.find_elements(By.CSS_SELECTOR, ".same-rows .value")]
    own = found.examples.a[pinned]
    assert values[: len(own)] == [f"{one[1]:g}" if one[1] else "silent" for one in own]
    assert values[len(own) :] == [f"{one[2]:g}" if one[2] else "silent" for one in own]
    assert panel.find_elements(By.CSS_SELECTOR, "script, img, b:not(.letter)") == [], "markup stays text"
    canvas(page, 0).send_keys(Keys.ESCAPE)
    assert not panel.is_displayed()


def test_the_pointer_finds_a_point_and_the_other_map_follows(page: webdriver.Chrome, found: Matching) -> None:
    button = page.find_element(By.CSS_SELECTOR, "[data-open-pair]")
    feature = int(str(button.get_attribute("data-open-pair")))
    button.click()  # pins it; where it lies is read back from the page's own status
    assert says(page, 0).startswith(f"A.{feature} ")
    page.execute_script("document.querySelector('.maps').scrollIntoView({behavior: 'instant', block: 'center'})")
    seen = set()
    box = canvas(page, 1)
    for x in range(-150, 151, 25):
        ActionChains(page, duration=0).move_to_element_with_offset(box, x, 0).perform()
        seen.add((says(page, 0).split(" ")[0], says(page, 1).split(" ")[0]))
    linked = [(int(a[2:]), int(b[2:])) for a, b in seen if a.startswith("A.") and b.startswith("B.")]
    assert len(linked) > 2
    for a, b in linked:
        assert int(found.features_b["partner"][b]) == a or (a, b) == (
            feature,
            int(found.features_a["partner"][feature]),
        )


@pytest.mark.parametrize("tool", ["box", "lasso"])
def test_what_is_drawn_around_is_selected_in_both(page: webdriver.Chrome, found: Matching, tool: str) -> None:
    page.find_element(By.CSS_SELECTOR, f"[data-tool={tool}]").click()
    box = canvas(page, 0)
    drag = ActionChains(page, duration=20).move_to_element_with_offset(box, -160, -120).click_and_hold()
    for x, y in ((0, -120), (160, -100), (160, 20), (0, 60), (-160, 20)) if tool == "lasso" else ((160, 40),):
        drag = drag.move_to_element_with_offset(box, x, y)
    drag.release().perform()
    status = page.find_element(By.CSS_SELECTOR, ".match-maps .spoken")
    counts = re.match(r"(\d+) features of A and (\d+) of B selected", str(status.get_attribute("textContent")))
    assert counts is not None
    a, b = int(counts.group(1)), int(counts.group(2))
    assert 10 < a < 190
    assert b in (a, a - 1), "every one's partner, and the first feature has none"
    assert 0 < len(pairs(page)) <= a
    page.find_element(By.CSS_SELECTOR, "[data-act=clear]").click()
    assert len(pairs(page)) == min(100, len(listed(found)))


def test_a_box_is_selected_by_keys(page: webdriver.Chrome) -> None:
    canvas(page, 0).send_keys(Keys.ARROW_RIGHT, "b", *[Keys.ARROW_RIGHT] * 12, *[Keys.ARROW_UP] * 8, "b")
    status = str(page.find_element(By.CSS_SELECTOR, ".match-maps .spoken").get_attribute("textContent"))
    assert re.match(r"([2-9]|\d\d+) features of A and \d+ of B selected", status)


def test_filters_leave_only_what_fits(page: webdriver.Chrome, found: Matching) -> None:
    table = found.features_a
    for kind in KINDS[1:]:
        page.find_element(By.CSS_SELECTOR, f"[data-kind={kind}]").click()
    same = [i for i in listed(found) if table["kind"][i] == "same"]
    assert sorted(pairs(page)) == same
    for name, column, least in (("r", "r", 0.4), ("ctx", "r_ctx", 0.3)):
        slider = page.find_element(By.CSS_SELECTOR, f"[data-least={name}]")
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        page.execute_script(script, slider, least)
        same = [i for i in same if round(100 * table[column][i]) >= round(100 * least)]
        assert sorted(pairs(page)) == same
    assert len(same) > 0


def test_words_and_numbers_find_features(page: webdriver.Chrome, found: Matching) -> None:
    field = page.find_element(By.CSS_SELECTOR, ".match-maps input[type=search]")
    field.send_keys("17")
    assert pairs(page) == ([17] if 17 in listed(found) else [])
    field.clear()
    field.send_keys("moon")
    back = {
        int(p) for p, word in zip(found.features_b["partner"], found.features_b["words"], strict=True) if word == "moon"
    }
    own = {i for i in listed(found) if found.features_a["words"][i] == "moon"} | (back & set(listed(found).tolist()))
    assert set(pairs(page)) == own


def test_every_colouring_has_its_legend_and_changes_the_points(page: webdriver.Chrome) -> None:
    pixels = "const c = document.querySelector('.map canvas'); return c.toDataURL()"
    seen = set()
    for way in ("kind", "subject", "r", "ctx"):
        choice = page.find_element(By.CSS_SELECTOR, ".match-maps select")
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
        page.execute_script(script, choice, way)
        seen.add(page.execute_script(pixels))
        legend = [k.text for k in page.find_elements(By.CSS_SELECTOR, ".map-key .key-item")]
        assert (legend == []) == (way == "kind")
        assert way != "subject" or legend == ["none", "food", "nature"]
    assert len(seen) == 4


def test_it_fits_a_phone_and_follows_the_theme(page: webdriver.Chrome) -> None:
    light = page.execute_script("return document.querySelector('.map canvas').toDataURL()")
    theme(page, "dark")
    WebDriverWait(page, SECONDS).until(
        lambda d: d.execute_script("return document.querySelector('.map canvas').toDataURL()") != light
    )
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390


def test_sixteen_thousand_features_a_side_do_not_stutter(browser: webdriver.Chrome, tmp_path: Path) -> None:  # noqa: F811
    """Following the pointer takes a fraction of a frame, filtering and drawing everything anew a blink."""
    make_matching(tmp_path / "matching", n=16_384)
    page = opened(browser, report(tmp_path / "r.html", [tmp_path / "matching"]).as_uri())
    assert (tmp_path / "r-pieces").is_dir(), "rows lie beside the page"
    timed = """
      const canvas = document.querySelectorAll('.map canvas:last-child')[0]; const box = canvas.getBoundingClientRect();
      const moves = []; for (let i = 0; i < 200; i += 1) {
        const x = box.left + 20 + (i * 37) % (box.width - 40), y = box.top + 20 + (i * 53) % (box.height - 40);
        const event = new PointerEvent('pointermove', {clientX: x, clientY: y, bubbles: true});
        const t = performance.now(); canvas.dispatchEvent(event); moves.push(performance.now() - t); }
      const button = document.querySelector('[data-kind=none]'); const t = performance.now(); button.click();
      const all = performance.now() - t; return [moves, all];"""
    moves, everything = page.execute_script(timed)
    assert statistics.median(moves) < 8
    assert everything < 1_000
    page.find_element(By.CSS_SELECTOR, "[data-open-pair]").click()
    WebDriverWait(page, SECONDS).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".same-rows li"))
    assert page.get_log("browser") == []


def test_the_curve_shows_ceilings_and_random_weights(found: Matching) -> None:
    curve = coverage_figure(found)
    assert curve is not None
    assert [trace["name"] for trace in curve["data"]] == ["A", "B", "A, second seed", "random weights"]
    assert len({trace["line"]["dash"] for trace in curve["data"]}) == 4
