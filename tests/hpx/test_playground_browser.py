"""The playground in a real browser: by mouse, by keyboard alone, on a telephone's width, with hostile text."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from simplesockets.hpx import Server
from simplesockets.hpx.playground import Playground
from simplesockets.hpx.playing import demo_server

from ..support.browser import WANTED, Browser, Keys, missing, running_browser

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"{', '.join(missing())} is not installed: {WANTED}")

NEWEST = "document.querySelector('#exchanges > li')"
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\u202e<b>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(str(tmp_path_factory.mktemp("profile"))) as browser:
        yield browser


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    with demo_server(str(tmp_path)) as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Browser]:
    """The page, with the greeting in it."""
    with opened(browser, server):
        yield browser
        assert not [each for each in browser.complaints() if "400" not in each]


@contextlib.contextmanager
def opened(browser: Browser, server: Server) -> Iterator[None]:
    browser.emulate(1280, 900)
    with Playground(server.address, 0, functions=server.describe_functions()) as playground:
        browser.open(playground.url)
        browser.wait("document.querySelectorAll('.received').length == 1")
        yield
        browser.open("about:blank")


def enter(page: Browser) -> None:
    page.click("#guest")
    page.wait("document.getElementById('session').textContent.endsWith('of a guest')")


def choose(page: Browser, fname: str) -> None:
    page.choose("#function", fname)


def answered(page: Browser, count: int) -> str:
    """The text of the newest exchange, when so many messages came."""
    page.wait("document.querySelectorAll('.received').length >= arguments[0]", count)
    return str(page.text("#exchanges > li"))


def test_a_call_and_its_answer(page: Browser) -> None:
    enter(page)
    choose(page, "add")
    page.type("[name=a]", "40")
    page.click("#call .main")
    text = answered(page, 3)
    assert '"data": 42' in text
    assert "← received" in text
    assert "unpacked" in text
    assert page.script("return document.querySelectorAll('.sent').length") == 2
    assert page.script("return document.getElementById('status').textContent").startswith("Received a message")


def test_an_error_stands_out_and_is_announced(page: Browser) -> None:
    enter(page)
    choose(page, "fail")
    page.type("[name=why]", HOSTILE)
    page.click("#call .main")
    assert "Error 404: <img src=x" in answered(page, 3)
    assert "failed" in page.script(f"return {NEWEST}.className")
    assert "404" in page.script("return document.getElementById('status').textContent")
    page.click("#only-errors")
    page.wait("[...document.querySelectorAll('#exchanges > li')].filter((each) => each.checkVisibility()).length == 1")


def test_wrong_input_is_said_at_its_field(page: Browser) -> None:
    choose(page, "add")
    page.type("[name=a]", "x")
    page.click("#call .main")
    page.wait("document.querySelector('[name=a]').getAttribute('aria-invalid') == 'true'")
    assert page.script("return document.activeElement.name") == "a"
    hint = "return document.getElementById(document.activeElement.getAttribute('aria-describedby')).textContent"
    assert "This is no JSON" in page.script(hint)
    page.type("[name=a]", "1")
    enter(page)
    page.click("#call .main")
    answered(page, 3)
    page.wait("document.querySelectorAll('[aria-invalid]').length == 0")


def test_an_earlier_message_is_changed_and_sent_again(page: Browser) -> None:
    enter(page)
    choose(page, "echo")
    page.type("[name=value]", "12345678901234567890")
    page.click("#call .main")
    answered(page, 3)
    page.click(".sent .tools button")
    page.wait("document.activeElement.id == 'text'")
    message = page.script("return document.activeElement.value")
    assert "12345678901234567890" in message
    page.type("#text", message.replace("12345678901234567890", '"again"'))
    page.click("#message .main")
    assert '"data": "again"' in answered(page, 4)


def test_the_current_session_is_filled_in(page: Browser) -> None:
    enter(page)
    page.click("#whole summary")
    page.type("#text", '{"session": "a\\"b", "name": "x", "data": [{"fname": "who_am_i", "session": "no"}]}')
    page.click("#fill-session")
    page.click("#message .main")
    assert "unexpected argument 'session'" in answered(page, 3)


@pytest.mark.parametrize("fname", ["echo", "Another function …"])
def test_hostile_text_stays_text(page: Browser, fname: str) -> None:
    enter(page)
    choose(page, fname)
    if fname != "echo":
        page.type("#free-name", "echo")
    text = '"' + HOSTILE + '"'
    page.type("#arguments textarea", text if fname == "echo" else '{"value": ' + text + "}")
    page.click("#call .main")
    assert HOSTILE[:40] in answered(page, 3)
    assert page.script("return document.querySelectorAll('img, #exchanges script, #exchanges b').length") == 0
    assert page.script("return window.hacked === undefined")


def test_long_values_are_folded(page: Browser) -> None:
    enter(page)
    choose(page, "numbers")
    page.type("[name=count]", "1000")
    page.click("#call .main")
    assert "1000 entries" in answered(page, 3)
    page.click("#exchanges > li .json summary")
    page.wait(f"{NEWEST}.querySelectorAll('.number').length == 200")
    page.click("#exchanges > li .json .inside button")
    page.wait(f"{NEWEST}.querySelectorAll('.number').length == 400")
    choose(page, "echo")
    page.type("[name=value]", f'"{"x" * 1000}"')
    page.click("#call .main")
    assert "1,002 characters" in answered(page, 4)
    assert "x" * 400 not in page.text("#exchanges > li")


def tab_to(page: Browser, condition: str) -> None:
    """Press Tab until the element that has the focus (``it``) is the one."""
    for _ in range(60):
        page.press(Keys.TAB)
        if page.script(f"const it = document.activeElement; return {condition}"):
            return
    raise AssertionError(f"no way there by Tab: {condition}")


def test_by_keyboard_alone(page: Browser) -> None:
    page.press(Keys.TAB)
    assert page.script("return document.activeElement.className") == "skip"
    tab_to(page, "it.id == 'guest'")
    assert page.script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(Keys.ENTER)
    page.wait("document.getElementById('session').textContent.endsWith('of a guest')")
    tab_to(page, "it.id == 'function'")
    page.press(*"add")
    tab_to(page, "it.name == 'a'")
    page.press("1", Keys.ENTER)
    assert '"data": 3' in answered(page, 3)
    tab_to(page, "it.textContent == 'Edit and send again'")
    page.press(Keys.ENTER)
    page.wait("document.activeElement.id == 'text'")
    page.press(Keys.TAB, Keys.ENTER)
    assert '"data": 3' in answered(page, 4)


def test_quitting_is_asked_about_first(page: Browser, server: Server) -> None:
    page.type("#user", "admin")
    page.type("#password", "secret")
    page.press(Keys.ENTER)
    page.wait("document.getElementById('session').textContent.endsWith('of admin')")
    assert page.script("return document.getElementById('password').value") == ""
    page.click(".card > details summary")
    page.click("[data-command=serverquit]")
    page.wait("document.getElementById('confirm').open")
    assert page.script("return document.activeElement.id") == "confirm-no"
    page.press(Keys.ESCAPE)
    page.wait("!document.getElementById('confirm').open")
    assert page.script("return document.activeElement.dataset.command") == "serverquit"
    assert server.running
    page.press(Keys.ENTER)
    page.wait("document.getElementById('confirm').open")
    page.press(Keys.TAB, Keys.ENTER)
    page.wait("document.getElementById('problem').checkVisibility()")
    assert "The connection was lost" in page.text("#problem")
    page.click("#connect")
    page.wait("document.getElementById('problem').textContent.includes('Is the server running')")
    page.complaints()  # of the answer that said so


def test_when_the_playground_ends_the_page_says_so(browser: Browser, server: Server) -> None:
    with Playground(server.address, 0) as playground:
        browser.open(playground.url)
        browser.wait("document.querySelectorAll('.received').length == 1")
        playground.close()
        browser.wait("document.getElementById('problem').textContent.includes('the playground was ended')")
    browser.open("about:blank")
    browser.complaints()


CONTRAST = """
const luminance = (color) => {
  const parts = color.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255);
  const [r, g, b] = parts.map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  const color = getComputedStyle(element).backgroundColor;
  return /, 0\\)$/.test(color) ? ground(element.parentElement) : color;
};
const poor = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
  if (!own || !element.checkVisibility() || element.disabled || element.matches('.unseen')) continue;
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push(`${element.tagName} ${element.className} ${element.textContent.slice(0, 20)}: ${ratio}`);
}
return poor;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_telephone_all_fits_and_can_be_read(page: Browser, dark: bool) -> None:
    page.emulate(375, 700, dark=dark, mobile=True)
    enter(page)
    choose(page, "fail")
    page.type("[name=why]", "x" * 300)
    page.click("#call .main")
    answered(page, 3)
    page.click(".card > details summary")
    page.click("#whole summary")
    choose(page, "collect")
    assert page.script("return [document.documentElement.scrollWidth, innerWidth]") == [375, 375]
    assert page.script(CONTRAST) == []
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter((each) => !each.labels.length).length"
    assert page.script(f"return {unnamed}") == 0
