"""The report in a real browser: headless Chromium, from file://, with the network off."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from chromium import NO_NETWORK, chromium
from report.made_artifacts import NASTY, make_all, make_study, make_three_models
from report.parsed_page import Page
from suture.pipeline import artifact
from suture.report.page import SCRIPTS, find_artifacts, report
from suture.report.payload import Limits

pytestmark = pytest.mark.browser

SECONDS = 20


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium(NO_NETWORK) as chrome:
        yield chrome


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
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(address)
    browser.execute_script("localStorage.clear()")
    WebDriverWait(browser, SECONDS).until(lambda d: d.find_element(By.ID, "where").text)
    yield browser
    # Whatever a test did, the page must not have complained, asked for anything, or run a text.
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert re.fullmatch(r"([AB]\.\d+ · )?Two models", browser.title)


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
    scripts = [files("suture.report").joinpath(f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    own = sorted(set(re.findall(r"(?:function|const|let) (\w+)", "\n".join(scripts))))
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
    assert hash_of(page) == "#A?sort=-q999"
    page.find_element(By.ID, "direction").click()
    assert [q999[i] for i in shown_features(page)][:9] == pytest.approx(sorted(v for v in q999 if v >= 0)[:9], rel=1e-3)


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


def hash_of(page: webdriver.Chrome) -> str:
    return page.execute_script("return location.hash")


def type_in(page: webdriver.Chrome, field: str, text: str) -> None:
    box = page.find_element(By.ID, field)
    box.clear()
    box.send_keys(text)
    page.execute_async_script("setTimeout(arguments[0], 250)")


def open_feature(page: webdriver.Chrome, feature: int) -> WebElement:
    """Go to a feature's page by its address, and wait until all of it is there."""
    page.execute_script(f"location.hash = '#A.{feature}'")
    return shown_page(page, feature)


def shown_page(page: webdriver.Chrome, feature: int) -> WebElement:
    def there(d: webdriver.Chrome) -> bool:
        heads = d.find_elements(By.CSS_SELECTOR, "#feature h2")
        return (
            bool(heads)
            and heads[0].text.startswith(f"Feature {feature}")
            and bool(d.find_elements(By.CSS_SELECTOR, "#feature .numbers"))
        )

    # a page that is drawn anew takes its elements with it
    WebDriverWait(page, SECONDS, ignored_exceptions=(StaleElementReferenceException,)).until(there)
    return page.find_element(By.ID, "feature")


def strongest_tokens(folder: Path, feature: int) -> set[str]:
    examples = artifact.read_json(folder / "features-crosscoder" / "examples.json")[feature]
    strongest = [e for e in examples if e["kind"] == "top"]
    return {s["tokens"][s["peak"]] for e in strongest for s in e["sides"]}


# ---- searching -------------------------------------------------------------------------------------------------------


def test_a_number_finds_its_feature_and_enter_opens_it(page: webdriver.Chrome) -> None:
    type_in(page, "number", "52")
    assert shown_features(page) == [52]
    assert hash_of(page) == "#A?number=52"
    type_in(page, "number", "7, 9-11")
    assert shown_features(page) == [7, 9, 10, 11]
    type_in(page, "number", "nothing")
    assert shown_features(page) == []
    type_in(page, "number", "52")
    page.find_element(By.ID, "number").send_keys(Keys.ENTER)
    shown_page(page, 52)
    assert hash_of(page) == "#A.52?number=52"


def test_a_token_finds_the_features_that_are_strongest_on_it(page: webdriver.Chrome, folder: Path) -> None:
    on = {i: strongest_tokens(folder, i) for i in range(120)}
    type_in(page, "token", "pOn")
    assert shown_features(page) == [i for i, own in on.items() if any("pon" in t.lower() for t in own)][:25]
    assert 0 < len(shown_features(page)) < 25
    type_in(page, "token", '"a"')  # not " park"
    assert shown_features(page) == [i for i, own in on.items() if " a" in own][:25]
    type_in(page, "token", "girl named")  # a text that only stands around the peak is none of it
    assert shown_features(page) == []


def test_a_promoted_token_finds_the_features_that_promote_it(page: webdriver.Chrome, folder: Path) -> None:
    logits = artifact.read_json(folder / "features-crosscoder" / "logits.json")
    wanted = [i for i, own in enumerate(logits) if any("ball" in t for side in own for t, _ in side["promoted"][:10])]
    type_in(page, "promoted", "ball")
    assert shown_features(page) == wanted[:25]
    assert page.find_element(By.ID, "where").text.endswith(f"of {len(wanted)} features")
    page.find_element(By.ID, "reset").click()
    assert page.find_element(By.ID, "where").text == "1–25 of 120 features"
    assert page.find_element(By.ID, "promoted").get_attribute("value") == ""


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_an_address_brings_filters_and_order_to_another_window(page: webdriver.Chrome, folder: Path) -> None:
    labels = columns(folder, "features-crosscoder")["label"]
    rate = columns(folder, "features-crosscoder")["rate"]
    for label in ("B", "dead", "ambiguous"):
        page.find_element(By.CSS_SELECTOR, f"#labels [data-label={label}]").click()
    header(page, "rate").click()
    page.find_element(By.ID, "next").click()
    shown, url = shown_features(page), page.current_url
    assert url.endswith("#A?labels=shared,A&sort=-rate&page=2")
    assert {labels[i] for i in shown} <= {"shared", "A"}
    page.get("about:blank")
    page.get(url)
    WebDriverWait(page, SECONDS).until(lambda d: shown_features(d) == shown)
    assert [rate[i] for i in shown] == sorted((rate[i] for i in shown), reverse=True)
    assert page.find_element(By.CSS_SELECTOR, "#labels [data-label=B]").get_attribute("aria-pressed") == "false"
    page.back()
    page.forward()
    WebDriverWait(page, SECONDS).until(lambda d: shown_features(d) == shown)


def test_a_neighbour_is_followed_and_back_and_forward_return(page: webdriver.Chrome) -> None:
    type_in(page, "number", "5-90")
    page.find_element(By.CSS_SELECTOR, "[data-open='8']").click()
    panel = shown_page(page, 8)
    assert page.title == "A.8 · Two models"
    link = panel.find_element(By.CSS_SELECTOR, "[data-neighbour]")
    neighbour = int(link.get_attribute("data-neighbour"))  # pyright: ignore[reportArgumentType]
    assert neighbour == 9
    link.click()
    shown_page(page, neighbour)
    assert hash_of(page) == "#A.9?number=5-90"
    page.back()
    shown_page(page, 8)
    page.back()
    WebDriverWait(page, SECONDS).until(lambda d: shown_features(d) == list(range(5, 30)))
    assert page.switch_to.active_element.get_attribute("data-open") == "8"
    page.forward()
    shown_page(page, 8)
    page.find_element(By.LINK_TEXT, "next ›").click()
    shown_page(page, 9)
    page.find_element(By.LINK_TEXT, "‹ All features").click()
    WebDriverWait(page, SECONDS).until(lambda d: shown_features(d) == list(range(5, 30)))
    assert page.title == "Two models"


@pytest.mark.parametrize(
    "place",
    ["#A.99999999", "#A.120", "#A?sort=nothing&labels=<b>&page=9999&token=%", "#A?page=-3&notes==gone", "#Z.4",
     "#%E0%A4%A", "#A.1.2", "#A?sort=-__proto__", "#A.-1", "#crosscoder.7?sort=constructor", "#<b>x</b>"],
)  # fmt: skip
def test_an_address_that_leads_nowhere_breaks_nothing(page: webdriver.Chrome, place: str) -> None:
    url = page.current_url.split("#")[0] + place
    page.get("about:blank")
    page.get(url)
    if place in ("#A.99999999", "#A.120"):
        WebDriverWait(page, SECONDS).until(lambda d: "There is no feature" in d.find_element(By.ID, "feature").text)
        assert "features 0 to 119" in page.find_element(By.ID, "feature").text
        page.find_element(By.LINK_TEXT, "‹ All features").click()
    if place.startswith("#crosscoder.7"):
        shown_page(page, 7)  # by the dictionary's name
        page.find_element(By.LINK_TEXT, "‹ All features").click()
    if "labels=" in place:
        WebDriverWait(page, SECONDS).until(lambda d: d.find_element(By.ID, "where").text == "No feature fits")
    page.find_element(By.ID, "reset").click()
    WebDriverWait(page, SECONDS).until(lambda d: d.find_element(By.ID, "where").text == "1–25 of 120 features")


def test_anchors_of_the_page_leave_a_feature(page: webdriver.Chrome) -> None:
    open_feature(page, 3)
    page.execute_script("location.hash = '#shares'")
    WebDriverWait(page, SECONDS).until(lambda d: d.find_element(By.ID, "shares").is_displayed())
    assert page.find_element(By.ID, "explorer").is_displayed()


def test_a_dictionary_has_its_letter(page: webdriver.Chrome, folder: Path) -> None:
    page.find_element(By.CSS_SELECTOR, "#pick option[value='1']").click()
    WebDriverWait(page, SECONDS).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#head [data-column=usage_share]"))
    assert not page.find_elements(By.CSS_SELECTOR, "#head [data-column=refit_share]")
    n_shared = columns(folder, "features-pooled")["label"].count("shared")
    assert page.find_element(By.CSS_SELECTOR, "#labels [data-label=shared] small").text == str(n_shared)
    assert hash_of(page) == "#B"
    page.find_element(By.CSS_SELECTOR, "[data-open='2']").click()
    shown_page(page, 2)
    assert hash_of(page) == "#B.2"
    assert "pooled" in page.find_element(By.CSS_SELECTOR, "#feature .lead").text


def test_a_steered_feature_leads_to_its_page(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, "#labels [data-label=shared]").click()
    page.execute_script("arguments[0].click()", page.find_element(By.CSS_SELECTOR, "[data-feature-link='3']"))
    shown_page(page, 3)


# ---- a feature's own page --------------------------------------------------------------------------------------------


def test_a_page_opens_by_keyboard_and_shows_markup_as_text(page: webdriver.Chrome) -> None:
    link = page.find_element(By.CSS_SELECTOR, "[data-open='0']")
    page.execute_script("arguments[0].focus()", link)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    panel = shown_page(page, 0)
    assert page.switch_to.active_element.tag_name == "h2"
    text = panel.get_attribute("textContent")
    assert text is not None
    for token in NASTY[:4]:
        assert token in text
    assert "line↵break" in text
    assert "⇥tab" in text
    assert panel.find_elements(By.CSS_SELECTOR, "script, img, b:not(.letter)") == []
    assert panel.find_elements(By.CSS_SELECTOR, ".on")
    assert panel.find_elements(By.CSS_SELECTOR, ".peak")


def test_both_models_read_one_text_with_both_their_values(page: webdriver.Chrome, folder: Path) -> None:
    labels = columns(folder, "features-crosscoder")["label"]
    feature = next(i for i, label in enumerate(labels) if label == "shared" and i > 0)
    panel = open_feature(page, feature)
    example = panel.find_elements(By.CSS_SELECTOR, ".example")[0]
    assert len(example.find_elements(By.CSS_SELECTOR, ".text")) == 1
    peak = example.find_element(By.CSS_SELECTOR, ".peak")
    said = str(peak.get_attribute("title"))
    assert re.fullmatch(r"A alone [\d.]+, B alone [\d.]+, all together [\d.]+", said)
    assert "linear-gradient" in peak.value_of_css_property("background-image")
    peak.click()
    assert said in example.find_element(By.CSS_SELECTOR, ".where").text


def test_a_feature_has_histograms_bands_and_its_numbers_folded_with_their_sentences(page: webdriver.Chrome) -> None:
    panel = open_feature(page, 8)
    plots = panel.find_elements(By.CSS_SELECTOR, ".small-plot svg")
    assert len(plots) == 5  # values: A, B, both; logit effects: A, B
    titles = [t.get_attribute("textContent") or "" for t in panel.find_elements(By.CSS_SELECTOR, ".bar-mark title")]
    assert any(re.search(r" to [\d.]+: 17 rows$", t) for t in titles)
    assert any(t.endswith(" tokens") for t in titles)
    kinds = [b.get_attribute("data-kind") for b in panel.find_elements(By.CSS_SELECTOR, ".band")]
    assert kinds == ["t", "u", "w", "r"]
    folded = panel.find_element(By.CSS_SELECTOR, ".numbers")
    assert not folded.get_attribute("open")
    assert not folded.find_element(By.CSS_SELECTOR, ".facts").is_displayed()
    folded.find_element(By.TAG_NAME, "summary").click()
    groups = [h.text for h in folded.find_elements(By.TAG_NAME, "h4")]
    assert groups[:2] == ["How it fires", "Whose it is"]
    said = folded.text
    assert "Share of the described rows on which it fires" in said
    assert "(95 %: " in said.replace("\u00a0", " ")
    assert "low" not in [dt.text for dt in folded.find_elements(By.TAG_NAME, "dt")]


def test_longer_text_comes_on_a_click_and_goes(page: webdriver.Chrome) -> None:
    panel = open_feature(page, 8)
    button = panel.find_element(By.CSS_SELECTOR, ".longer")
    example = button.find_element(By.XPATH, "ancestor::div[@class='example']")
    before = example.find_element(By.CSS_SELECTOR, ".text").text
    button.click()
    longer = example.find_element(By.CSS_SELECTOR, ".text").text
    assert before.strip() in longer
    assert len(longer) > 1.5 * len(before)
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    assert example.find_element(By.CSS_SELECTOR, ".text").text == before


def test_an_old_table_says_what_is_missing(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, "#pick option[value='1']").click()
    WebDriverWait(page, SECONDS).until(lambda d: "an older suture made it" in d.find_element(By.ID, "left-out").text)
    page.execute_script("location.hash = '#B.4'")
    panel = shown_page(page, 4)
    assert "no histograms of values, neighbours" in panel.text
    assert not panel.find_elements(By.CSS_SELECTOR, ".small-plot, [data-neighbour], .longer")
    assert panel.find_elements(By.CSS_SELECTOR, ".example")


# ---- notes -----------------------------------------------------------------------------------------------------------


def write_note(page: webdriver.Chrome, feature: int, *, name: str, note: str, lists: str) -> None:
    panel = open_feature(page, feature)
    if not panel.find_element(By.CSS_SELECTOR, ".own-notes").get_attribute("open"):
        panel.find_element(By.CSS_SELECTOR, ".own-notes summary").click()
    for field, text in (("note-name", name), ("note-text", note), ("note-lists", lists)):
        type_in(page, field, text)


def read_notes(page: webdriver.Chrome, tmp_path: Path, text: str) -> str:
    """What the page says to a file of notes."""
    file = tmp_path / "notes.json"
    file.write_text(text, encoding="utf-8")
    page.execute_script("location.hash = '#A'")
    WebDriverWait(page, SECONDS).until(lambda d: d.find_element(By.ID, "explorer").is_displayed())
    page.execute_script("document.getElementById('notes-say').textContent = ''")
    page.find_element(By.ID, "notes-read").send_keys(str(file))
    WebDriverWait(page, SECONDS).until(lambda d: d.find_element(By.ID, "notes-say").text)
    return page.find_element(By.ID, "notes-say").text


def test_a_note_is_kept_listed_and_there_again(page: webdriver.Chrome) -> None:
    write_note(page, 6, name="<b>joy</b>", note="fires on joy", lists="mood, <i>x</i>, mood")
    assert page.find_elements(By.CSS_SELECTOR, "#feature h2 b, #feature h2 i") == []
    page.refresh()
    panel = shown_page(page, 6)
    assert panel.find_element(By.CSS_SELECTOR, "h2").text == "Feature 6 <b>joy</b>"
    assert panel.find_element(By.ID, "note-text").get_attribute("value") == "fires on joy"
    assert panel.find_element(By.ID, "note-lists").get_attribute("value") == "mood, <i>x</i>"
    panel.find_element(By.LINK_TEXT, "‹ All features").click()
    WebDriverWait(page, SECONDS).until(lambda d: len(shown_features(d)) == 25)
    assert page.find_element(By.CSS_SELECTOR, "[data-feature='6'] .noted").text == "<b>joy</b>"
    page.find_element(By.CSS_SELECTOR, "#noted option[value='=mood']").click()
    assert shown_features(page) == [6]
    assert hash_of(page) == "#A?notes=%3Dmood"
    write_note(page, 6, name=" ", note="", lists="")
    assert "6" not in page.execute_script("return localStorage.getItem('suture-notes')").split("dictionaries")[1]


def test_notes_go_to_a_file_and_come_back(page: webdriver.Chrome, tmp_path: Path) -> None:
    write_note(page, 6, name="joy", note="a\nb", lists="mood")
    caught = (
        "const done = arguments[0]; const make = URL.createObjectURL;"
        "URL.createObjectURL = (b) => { b.text().then(done); URL.createObjectURL = make; return make(b); };"
        "HTMLAnchorElement.prototype.click = () => {}; document.getElementById('notes-save').click();"
    )
    text = page.execute_async_script(caught)
    saved = json.loads(text)
    (own,) = saved["dictionaries"].values()
    assert own["features"] == {"6": {"name": "joy", "note": "a\nb", "lists": ["mood"]}}
    page.execute_script("localStorage.clear()")
    page.refresh()
    assert not page.find_elements(By.CSS_SELECTOR, ".noted")
    assert read_notes(page, tmp_path, text) == "1 notes were read."
    assert page.find_element(By.CSS_SELECTOR, "[data-feature='6'] .noted").text == "joy"
    saved["dictionaries"][next(iter(saved["dictionaries"]))]["features"] |= {
        "7": {"name": "fine"}, "8": 5, "x": {"name": "no"}, "9": {"name": ["no"]}, "10": {"lists": [1]},
        "900000": {"note": "beyond the table"}, "11": None,
    }  # fmt: skip
    saved["dictionaries"]["__proto__ "] = {"features": {}}
    assert read_notes(page, tmp_path, json.dumps(saved)) == "3 notes were read; 6 entries were none and left out."
    assert page.find_element(By.CSS_SELECTOR, "[data-feature='7'] .noted").text == "fine"
    page.find_element(By.CSS_SELECTOR, "#noted option[value='*']").click()
    assert shown_features(page) == [6, 7]


@pytest.mark.parametrize(
    "text", ["{ half", "[]", "null", '"text"', '{"dictionaries": []}', '{"dictionaries": 3}', "{}"]
)
def test_a_file_that_is_none_is_refused_in_words(page: webdriver.Chrome, tmp_path: Path, text: str) -> None:
    assert read_notes(page, tmp_path, text).endswith("nothing was read.")
    assert len(shown_features(page)) == 25


def test_notes_that_the_browser_kept_badly_are_left_out(page: webdriver.Chrome) -> None:
    for kept in ("{ half", '{"dictionaries": {"a": 1}}', "[]"):
        page.execute_script("localStorage.setItem('suture-notes', arguments[0])", kept)
        page.refresh()
        WebDriverWait(page, SECONDS).until(lambda d: len(shown_features(d)) == 25)


# ---- looks -----------------------------------------------------------------------------------------------------------


def test_the_first_tab_skips_to_the_answer(page: webdriver.Chrome) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("href").endswith("#answer")


@pytest.mark.parametrize("width", [360, 390, 768, 1400])
def test_no_width_clips_the_table_or_scrolls_sideways(page: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 700}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert settled_width(page)[0] <= width
    clipped = (
        "const box = document.querySelector('#explorer > .scroll').getBoundingClientRect();"
        "return [...document.querySelectorAll('#rows tr.feature > *')].filter(c => c.offsetWidth && "
        "(c.getBoundingClientRect().right > box.right + 1 || c.getBoundingClientRect().left < box.left - 1)).length"
    )
    assert page.execute_script(clipped) == 0
    visible = "return [...document.querySelector('#rows tr.feature').children].filter(c => c.offsetWidth).length"
    assert page.execute_script(visible) >= (4 if width < 700 else 5)
    open_feature(page, 0)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert settled_width(page)[0] <= width
    wide = "return [...document.querySelectorAll('#feature *')].filter(e => e.checkVisibility() && !e.closest('.scroll, svg, .token, .peek-line') && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"  # noqa: E501
    assert page.execute_script(wide) == []


def contrast(one: str, other: str) -> float:
    """Of two CSS colours, as WCAG has it."""

    def light(colour: str) -> float:
        parts = [float(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page: webdriver.Chrome, mode: str) -> None:
    theme(page, mode)
    open_feature(page, 8)
    inks = (
        "const out = []; for (const e of document.querySelectorAll('#feature *')) {"
        "if (!e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;"
        "if (e.closest('svg, .on, .letter')) continue; let g = e, ground = 'rgba(0, 0, 0, 0)';"
        "while (g && /, 0\\)$/.test(ground)) { ground = getComputedStyle(g).backgroundColor; g = g.parentElement; }"
        "out.push([getComputedStyle(e).color, ground, e.outerHTML.slice(0, 60)]); } return out;"
    )
    found = page.execute_script(inks)
    assert len(found) > 40
    assert [where for ink, ground, where in found if contrast(ink, ground) < 4.5] == []


def test_controls_have_names_and_the_table_roles(page: webdriver.Chrome) -> None:
    nameless = (
        "return [...document.querySelectorAll('button, a, input, select, textarea')].filter(e => e.checkVisibility() &&"
        " !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length && e.labels[0].textContent.trim())))"  # noqa: E501
        ".map(e => e.outerHTML.slice(0, 90))"
    )
    assert page.execute_script(nameless) == []
    assert page.find_element(By.CSS_SELECTOR, "#explorer table").get_attribute("role") == "table"
    assert {c.get_attribute("role") for c in rows(page)[0].find_elements(By.XPATH, "*")} == {"rowheader", "cell"}
    open_feature(page, 8)
    assert page.execute_script(nameless) == []


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
    drawn = "return [...arguments[0].querySelectorAll('.point title')].map(t => t.textContent)"

    def shows(key: str) -> bool:
        """Every design's mean is said at its mark."""
        said = [t for t in study.execute_script(drawn, box) if not t.startswith("seed ")]
        means = [one[key]["mean"] for one in content["summary"].values()]
        numbers = [float(m[-1]) for t in said if (m := re.findall(r": ([\d.]+) \(", t))]
        return sorted(numbers) == pytest.approx(sorted(means), abs=2e-3)

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
    drawn = "return document.querySelectorAll('#shares [data-figure=\"simplex-0\"] .point').length"
    page.execute_script("document.querySelector('[data-figure=\"simplex-0\"]').scrollIntoView({behavior: 'instant'})")
    WebDriverWait(page, SECONDS).until(lambda d: d.execute_script(drawn) > 50)
    page.execute_script("location.hash = '#A.1'")
    panel = shown_page(page, 1)
    assert len(panel.find_elements(By.CSS_SELECTOR, ".example .text")) == 1
    assert "C alone" in str(panel.find_element(By.CSS_SELECTOR, ".peak").get_attribute("title"))
    panel.find_element(By.CSS_SELECTOR, ".numbers summary").click()
    titles = [dt.text for dt in panel.find_elements(By.CSS_SELECTOR, ".facts dt")]
    assert "Refit share of C" in titles
    assert not [t for t in titles if "low" in t]


def read_index(page: Path) -> dict:
    return Page(page.read_text(encoding="utf-8")).pieces["t0"]


# ---- pieces beside the page ------------------------------------------------------------------------------------------


def test_pieces_beside_the_page_load_when_they_are_looked_at(
    browser: webdriver.Chrome, folder: Path, tmp_path: Path
) -> None:
    out = report(tmp_path / "r.html", find_artifacts(folder), title="Two models", limits=Limits(n_inline=100))
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(out.as_uri())
    WebDriverWait(browser, SECONDS).until(lambda d: len(shown_features(d)) == 25)
    browser.execute_script("window.told = []; addEventListener('suture-piece', e => told.push(e.detail[0]))")
    assert not list(browser.find_elements(By.CSS_SELECTOR, "script[src]"))
    mean = columns(folder, "features-crosscoder")["q999"]
    browser.find_element(By.CSS_SELECTOR, "#sort option[value=q999]").click()
    highest = sorted(range(120), key=lambda i: -(mean[i] or 0))[:25]
    WebDriverWait(browser, SECONDS).until(lambda d: set(shown_features(d)) == set(highest))
    open_feature(browser, 8)
    found = browser.execute_script("return told")
    index = read_index(out)
    assert found == [f"t0-c{index['later'].index('q999')}", "t0-b0", "t0-x0"]  # of sixteen and more
    assert "p exclusive" in browser.find_element(By.ID, "feature").get_attribute("textContent")
    assert browser.get_log("browser") == []
    for piece in (tmp_path / "r-pieces").glob("t0-b0-*.js"):
        piece.unlink()
    browser.refresh()
    WebDriverWait(browser, SECONDS).until(
        lambda d: "keep the folder beside the page" in d.find_element(By.ID, "feature").text
    )
    browser.get_log("browser")
