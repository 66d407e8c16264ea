"""The live page in a real browser, served by the command itself: read, find, steer both models, keep, leave."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from chromium import LOOPBACK_ONLY, chromium
from suture.pipeline.files import sha256_of, write_json

pytestmark = pytest.mark.browser
SECONDS = 30


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium(LOOPBACK_ONLY) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of `suture play`; at the end it is interrupted, which is how it ends."""
    names = {str(i): {"name": f"name {i}"} for i in range(64)}
    file = folder.with_name("notes.json")
    identity = sha256_of(folder / "manifest.json")[:16]
    write_json(file, {"suture_notes": 1, "dictionaries": {identity: {"features": names}}})
    words = [sys.executable, "-m", "suture", "play", str(folder), "--names", str(file), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        yield json.loads(served.stdout.readline())["address"]
        served.send_signal(signal.SIGINT)
        out, err = served.communicate(timeout=60)
        assert served.returncode == 0, err
        assert out == ""
        assert "Traceback" not in err


def opened(browser: webdriver.Chrome, address: str, scene: str = "") -> webdriver.Chrome:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"{address}{scene}")
    return browser


def ended(page: webdriver.Chrome) -> None:
    """Wait until everything is written."""
    WebDriverWait(page, SECONDS).until(lambda d: "left" not in progress(d) and "tokens," in progress(d))


def progress(page: webdriver.Chrome) -> str:
    return page.find_element(By.ID, "progress").text


def cell(page: webdriver.Chrome, name: str) -> str:
    return page.find_element(By.CSS_SELECTOR, f"[data-cell='{name}'] .written").text


def test_a_text_is_read_a_feature_found_and_both_models_steered(browser: webdriver.Chrome, address: str) -> None:
    page = opened(browser, address, "#prompt=Tom+saw+a+big+dog.+He&tokens=8")
    WebDriverWait(page, SECONDS).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#features [data-feature]"))
    ended(page)
    assert cell(page, "default-0").startswith("Tom saw a big dog. He")
    assert cell(page, "steered-0") == "Move a slider."
    assert len(page.find_elements(By.CSS_SELECTOR, "[data-cell='default-1'] .next li")) == 8

    # a token's features, the first of which shades the text, a line for each model
    page.find_element(By.CSS_SELECTOR, "#shaded .text span:nth-child(4)").click()
    first = page.find_element(By.CSS_SELECTOR, "#features [data-feature]")
    feature = first.get_attribute("data-feature")
    first.find_element(By.XPATH, ".//button[text()='Shade']").click()
    WebDriverWait(page, SECONDS).until(lambda d: d.find_elements(By.CSS_SELECTOR, f"[data-shaded='{feature}']"))
    assert f"name {feature}" in page.find_element(By.CSS_SELECTOR, f"#features [data-feature='{feature}'] .peek").text
    assert f"name {feature}" in page.find_element(By.CSS_SELECTOR, f"[data-shaded='{feature}'] h3").text
    lines = page.find_elements(By.CSS_SELECTOR, f"[data-shaded='{feature}'] .line-of")
    assert [line.find_element(By.CSS_SELECTOR, ".letter").text for line in lines] == ["A", "B"]
    shaded = page.execute_script(
        "return [...document.querySelectorAll('[data-shaded] .text span')].filter(s => s.style.background).length"
    )
    assert shaded > 0

    # steered: both models, while the default stays
    before = cell(page, "default-0"), cell(page, "default-1")
    page.find_element(By.XPATH, f"//li[@data-feature='{feature}']//button[text()='Steer']").click()
    assert f"name {feature}" in page.find_element(By.CSS_SELECTOR, f"[data-steered='{feature}'] .name").text
    number = page.find_element(By.CSS_SELECTOR, f"[data-steered='{feature}'] input[type=number]")
    number.clear()
    number.send_keys("60")
    WebDriverWait(page, SECONDS).until(lambda d: f"steer={feature}%3A60" in d.current_url)
    WebDriverWait(page, SECONDS).until(lambda d: cell(d, "steered-1") not in ("", "Move a slider."))
    ended(page)
    assert (cell(page, "default-0"), cell(page, "default-1")) == before
    assert cell(page, "steered-0") != before[0]
    assert cell(page, "steered-1") != before[1]

    # the address brings all of it to another tab, while the first is still there
    url, steered = page.current_url, cell(page, "steered-0")
    page.switch_to.new_window("tab")
    page.get(url)
    WebDriverWait(page, SECONDS).until(lambda d: d.find_elements(By.CSS_SELECTOR, f"[data-shaded='{feature}']"))
    ended(page)
    assert cell(page, "steered-0") == steered
    page.close()
    page.switch_to.window(page.window_handles[0])
    assert page.get_log("browser") == []


def test_a_long_answer_is_stopped_and_a_closed_tab_leaves_the_next_reader_alone(
    browser: webdriver.Chrome, address: str
) -> None:
    page = opened(browser, address, "#prompt=Tom+saw&tokens=200&steer=3:20")
    WebDriverWait(page, SECONDS).until(lambda d: "left" in progress(d))
    page.execute_script("document.getElementById('stop').click()")  # while the page grows below it
    assert progress(page) == "stopped"
    at = cell(page, "steered-0")
    time.sleep(0.5)
    assert cell(page, "steered-0") == at
    page.switch_to.new_window("tab")
    page.get(f"{address}#prompt=The+cat&tokens=200&steer=5:20")
    WebDriverWait(page, SECONDS).until(lambda d: "left" in progress(d))
    page.close()  # in mid-generation
    page.switch_to.window(page.window_handles[0])
    opened(page, address, "#prompt=Lily+went&tokens=3")
    ended(page)
    assert cell(page, "default-0").startswith("Lily went")


@pytest.mark.parametrize(
    "scene",
    ["#prompt=a&steer=3:1e999,99:1,x:2,3&shade=9999,-1,<b>,2&tokens=0&seed=-4&temperature=abc", "#prompt=%E0%A4%A",
     "#<img src=x>"],
)  # fmt: skip
def test_an_address_that_is_no_scene_breaks_nothing(browser: webdriver.Chrome, address: str, scene: str) -> None:
    page = opened(browser, address, scene)
    ended(page)
    assert page.find_element(By.ID, "tokens").get_attribute("value") == "30"
    assert page.find_elements(By.CSS_SELECTOR, "[data-steered]") == []
    assert page.find_elements(By.CSS_SELECTOR, "img") == []
    assert page.get_log("browser") == []


def test_markup_in_a_text_is_text(browser: webdriver.Chrome, address: str) -> None:
    page = opened(browser, address, "#prompt=a+<img+src=x+onerror=alert(1)>+<b>dog</b>&tokens=2")
    ended(page)
    WebDriverWait(page, SECONDS).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#shaded .text span"))
    assert page.find_elements(By.CSS_SELECTOR, "main img, main .text b") == []
    assert "<b>dog</b>" in cell(page, "default-0")
    assert page.get_log("browser") == []


def test_a_file_brings_a_scene_back_and_others_are_refused_in_words(
    browser: webdriver.Chrome, address: str, tmp_path: Path
) -> None:
    page = opened(browser, address, "#prompt=a&tokens=2")
    ended(page)
    scene = {"prompt": "The old man", "shade": [2], "steer": [[3, 12.5]], "tokens": 4, "temperature": 0.5, "seed": 9}
    for content, says in (
        ("{", "not JSON"),
        ("{}", "no scene"),
        (json.dumps({"suture_play": 1, "scene": {"prompt": 3}}), "no scene"),
        (json.dumps({"suture_play": 1, "dictionary": "other", "scene": scene}), "another dictionary"),
    ):
        file = tmp_path / "scene.json"
        file.write_text(content)
        page.find_element(By.ID, "open").send_keys(str(file))
        WebDriverWait(page, SECONDS).until(lambda d, says=says: says in d.find_element(By.ID, "kept").text)
    ended(page)
    assert "prompt=The+old+man&shade=2&steer=3%3A12.5&tokens=4&temperature=0.5&seed=9" in page.current_url
    assert cell(page, "steered-1").startswith("The old man")


def test_a_hostile_page_gets_nothing(browser: webdriver.Chrome, address: str) -> None:
    """A page of another origin, though it knew the token: it can neither read nor set off anything."""
    place, _, token = address.partition("/?token=")
    with pytest.raises(OSError, match="403"):
        urlopen(
            Request(f"{place}/read", data=b"{}", headers={"Origin": "http://evil.example", "x-suture-token": token})
        )
    browser.get("data:text/html,<p>hostile")
    tried = """
        const [place, token, done] = arguments;
        const body = JSON.stringify({prompt: "a"});
        const ways = [
          fetch(`${place}/read`, {method: "POST", body, headers: {"x-suture-token": token}}).then(a => a.text()),
          fetch(`${place}/read?token=${token}`, {method: "POST", body, mode: "no-cors"}).then(a => a.text()),
          fetch(`${place}/?token=${token}`).then(a => a.text()),
          new Promise((yes, no) => {
            const frame = document.createElement("iframe");
            frame.src = `${place}/?token=${token}`;
            frame.onload = () => { try { yes(frame.contentDocument.body.textContent); } catch (e) { no(e); } };
            document.body.append(frame);
          }),
        ];
        Promise.allSettled(ways).then(all => done(all.map(one => one.status === "fulfilled" ? one.value : null)));
    """
    found = browser.execute_async_script(tried, place, token)
    assert [text or "" for text in found] == ["", "", "", ""]
