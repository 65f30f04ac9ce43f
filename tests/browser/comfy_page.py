"""ComfyUI's page as the tests use it: with the mouse where a person uses the mouse, and looks at what is there."""

import json
import re
from pathlib import Path

from comfy_server import Server

PATIENCE = 120_000
"""Milliseconds; a page with nothing but a slow machine behind it needs a few thousand."""
OPENS = 10_000
"""Milliseconds in which a dropdown opens."""
POLL = 100

WIDGETS = "type => app.graph.nodes.find(n => n.type === type).widgets.map(w => [w.name, w.value])"
OPTIONS = """([type, name]) =>
    app.graph.nodes.find(n => n.type === type).widgets.find(w => w.name === name).options.values"""
PLACE = """async ([type, name]) => {
    const node = app.graph.nodes.find(n => n.type === type), widget = node.widgets.find(w => w.name === name)
    const place = () => app.canvasPosToClientPos([node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10])
    let [x, y] = place()
    for (let still = 0; still < 10; ) {  // a workflow that was just opened is still being drawn and moved into view
        await new Promise(requestAnimationFrame)
        const before = [x, y]
        ;[x, y] = place()
        still = Number.isFinite(y) && x === before[0] && y === before[1] ? still + 1 : 0
    }
    return {x, y}
}"""


class ComfyPage:
    """A browser page on a server; `errors` collects what goes wrong in the pack's scripts."""

    def __init__(self, page, server: Server, screenshots: Path, name: str):
        self.page, self.server, self.screenshots, self.name = page, server, screenshots, name
        self.settings = server.base / "user" / "default" / "comfy.settings.json"
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._listen)

    def _listen(self, message) -> None:
        url = message.location.get("url", "")
        if url.endswith(".md"):  # the page asks for help in its language before it takes ours
            return
        ours = "/extensions/sae-eraser/" in url or "SAEEraser." in message.text
        if message.type == "error" and ours:
            self.errors.append(message.text)

    def screenshot(self, step: str) -> None:
        self.page.screenshot(path=self.screenshots / f"{self.name}-{step}.png")

    def open_for_the_first_time(self) -> None:
        """As somebody sees it who has just installed ComfyUI."""
        self.settings.unlink(missing_ok=True)
        self.page.goto(self.server.url)

    def open(self, **settings) -> None:
        """As somebody sees it who has been here before, with an empty workflow."""
        self.settings.parent.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(json.dumps({"Comfy.TutorialCompleted": True, **settings}))
        self.page.goto(self.server.url)
        self.wait_for("window.app?.vueAppReady && window.app.rootGraph?.nodes.length")

    def wait_for(self, condition: str):
        """Until this JavaScript is true in the page."""
        return self.page.wait_for_function(condition, polling=POLL)

    def load(self, workflow: dict) -> None:
        """Opens a workflow, as dropping its file on the page does."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)

    def saved(self) -> dict:
        """What the page would save."""
        return self.page.evaluate("JSON.parse(JSON.stringify(app.rootGraph.serialize()))")

    def widgets(self, kind: str) -> dict:
        return dict(self.page.evaluate(WIDGETS, kind))

    def options(self, kind: str, widget: str) -> list[str]:
        return self.page.evaluate(OPTIONS, [kind, widget])

    def choose(self, kind: str, widget: str, value: str) -> None:
        """Opens a dropdown on the canvas and clicks on an entry; clicks again if the list does not open."""
        from playwright.sync_api import TimeoutError as NotOpened

        entry = self.page.locator(".litecontextmenu .litemenu-entry").get_by_text(value, exact=True)
        for _ in range(PATIENCE // OPENS):
            place = self.page.evaluate(PLACE, [kind, widget])
            self.page.mouse.click(place["x"], place["y"])
            try:
                return entry.click(timeout=OPENS)
            except NotOpened:
                self.screenshot("no_list")
        raise AssertionError(f"The list of {widget} did not open.")

    def press_r(self) -> None:
        """Refreshes the lists, and waits until that is done."""
        self.page.mouse.move(800, 850)
        with self.page.expect_response("**/object_info"):
            self.page.keyboard.press("r")
        self.message("Node definitions updated").wait_for()

    def message(self, text: str):
        """What the page says with these words in a corner; not what newer pages tell screen readers as well."""
        return self.page.get_by_text(re.compile(f"^[^.]*{re.escape(text)}"))

    def run(self) -> None:
        self.page.get_by_test_id("queue-button").click()
