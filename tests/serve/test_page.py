"""The page for people, in a real browser: with a mouse, by keyboard alone, on a phone, and with hostile names."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.deliver.predictor import Predictor
from tests import makers
from tests.serve.conftest import Client

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Page:
    """An open page that notes what goes wrong and what it asks for."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def cards(self) -> list[str]:
        return [card.inner_text() for card in self.page.locator("#grid > li").all()]

    def answered(self, count: int) -> None:
        self.page.get_by_text(f"{count} of {count}", exact=True).wait_for()


def upload(name: str, data: bytes, kind: str = "image/jpeg") -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": data}


PICTURES = {f"{seed}.jpg": makers.jpeg(seed, 120, 80) for seed in range(5)}
TRANSFER = """([kind, name, data]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
    document.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
        : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def test_several_images_become_a_grid(browser: Any, client: Client, predictor: Predictor) -> None:
    with Page(browser, client.url, viewport={"width": 1280, "height": 900}) as page:
        page.page.get_by_text("This model tells apart: ant, bee, <b>cat</b>, dog.").wait_for()
        files = [upload(name, data) for name, data in PICTURES.items()]
        page.page.set_input_files("#files", [*files, upload("<img src=x onerror=alert(1)>.jpg", b"broken")])
        page.answered(6)
        cards = page.cards()
        for card, (name, data) in zip(cards, PICTURES.items(), strict=False):
            told = predictor.predict(data)
            lines = [line for line in card.splitlines() if line]
            assert lines[0] == name
            assert lines[1] == told.label
            assert lines[2:4] == [told.label, f"{100 * told.confidence:.1f} %"] or told.confidence > 0.999
        assert "<img src=x onerror=alert(1)>.jpg" in cards[5]
        assert "Cannot be read: not a readable" in cards[5]
        boxes = [card.bounding_box() for card in page.page.locator("#grid > li").all()]
        assert len({box["y"] for box in boxes}) < len(boxes), "side by side"
        assert page.page.locator("#grid canvas").count() == 5
        assert page.page.locator('canvas[role="img"][aria-label="0.jpg"]').count() == 1
        assert all(request.startswith((client.url, "blob:")) for request in page.requests)
        assert page.faults == []


def test_by_keyboard_alone(browser: Any, client: Client, predictor: Predictor) -> None:
    with Page(browser, client.url) as page:
        page.page.locator("#about").wait_for()
        files = [upload("1.jpg", PICTURES["1.jpg"])]
        page.page.on("filechooser", lambda chooser: chooser.set_files(files))
        page.page.keyboard.press("Tab")
        assert page.page.evaluate("document.activeElement.id") == "choose"
        page.page.keyboard.press("Enter")
        page.answered(1)
        told = predictor.predict(PICTURES["1.jpg"])
        assert page.page.locator('[role="status"]').inner_text().startswith(f"1.jpg: {told.label}, ")
        page.page.keyboard.press("Tab")
        assert page.page.evaluate("document.activeElement.id") == "clear"
        page.page.keyboard.press("Space")
        assert page.page.locator("#results").is_hidden()
        assert page.page.evaluate("document.activeElement.id") == "choose"
        for _ in range(2):
            page.page.keyboard.press("Tab")
        assert page.page.evaluate("document.activeElement.textContent") == "HTTP interface"


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_is_pasted_or_dropped(browser: Any, client: Client, kind: str) -> None:
    with Page(browser, client.url) as page:
        page.page.locator("#about").wait_for()
        page.page.evaluate(TRANSFER, [kind, "it.jpg", base64.b64encode(PICTURES["2.jpg"]).decode()])
        page.answered(1)
        assert page.cards()[0].startswith("it.jpg")


def test_on_a_phone_in_the_dark_and_not_sure(browser: Any, bundle: Path, start: Any) -> None:
    from finetune import load

    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    with start(load(bundle).predictor(threshold=1.0)) as client, Page(browser, client.url, **phone) as page:
        page.page.locator("#about").wait_for()
        assert page.page.locator("#photograph").is_visible()
        assert page.page.locator("#camera").get_attribute("capture") == "environment"
        page.page.set_input_files("#camera", [upload("a" * 90 + ".jpg", PICTURES["0.jpg"])])
        page.answered(1)
        assert "Not sure" in page.cards()[0]
        assert "not sure, perhaps " in page.page.locator('[role="status"]').inner_text()
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
        colour = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")) < 60
        page.page.locator("summary").click()
        assert "“Not sure” below" in page.page.locator("#facts").inner_text()


def test_a_token_is_asked_for_once(browser: Any, predictor: Predictor, start: Any) -> None:
    with start(predictor, token="s3cret") as client, Page(browser, client.url) as page:
        dialog = page.page.get_by_role("dialog")
        page.page.get_by_role("textbox", name="Token").fill("wrong")
        page.page.keyboard.press("Enter")
        page.page.get_by_text("That token is not the right one.").wait_for()
        page.page.get_by_role("textbox", name="Token").fill("s3cret")
        page.page.keyboard.press("Enter")
        page.page.get_by_text("This model tells apart").wait_for()
        page.page.set_input_files("#files", [upload(name, data) for name, data in PICTURES.items()])
        page.answered(5)
        assert dialog.count() == 0


def test_a_busy_server_is_asked_again(browser: Any, client: Client) -> None:
    refused: list[int] = []

    def busy_once(route: Any) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(503)
            route.fulfill(status=503, headers={"retry-after": "1"}, body='{"error": "busy"}')

    with Page(browser, client.url) as page:
        page.page.locator("#about").wait_for()
        page.page.route("**/predict*", busy_once)
        page.page.set_input_files("#files", [upload("0.jpg", PICTURES["0.jpg"])])
        page.answered(1)
        assert refused == [503]
        assert "Cannot" not in page.cards()[0]


def test_the_interface_page_reads_well_without_scripts(browser: Any, client: Client) -> None:
    with Page(browser, client.url + "/docs", java_script_enabled=False) as page:
        assert "POST /predict" in page.page.locator("main").inner_text().replace("post", "POST")
        assert page.faults == []
