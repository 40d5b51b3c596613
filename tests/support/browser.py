"""A real browser for tests: Chromium without a window, driven by Selenium.

``tests/setup_machine.sh browser`` installs what it needs. Its connections go to
127.0.0.1 only: every other name and address is unknown to it.
"""

from __future__ import annotations

import base64
import http.client
import secrets
import shutil
from typing import Any, Iterable

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chromium.remote_connection import ChromiumRemoteConnection
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from support.servers import CACHE, Server, ServerError
from support.waiting import eventually

#: Programs, each with the Debian package that has it.
PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}

#: What checks pages for people who cannot see, hear, or hold a mouse.
AXE = CACHE / "npm-axe" / "node_modules" / "axe-core" / "axe.min.js"

ARGUMENTS = (
    "--headless=new",
    # As root, and in a container, it has no sandbox of its own; the pages are ours.
    "--no-sandbox",
    # A pipe in place of a port: the browser ends with its driver, however that ends.
    "--remote-debugging-pipe",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

#: Seconds in which a page of this machine is there, or will not be.
LOAD_TIMEOUT = 60.0

#: How many presses of a key reach everything on a page, or nothing will.
PRESSES = 200


class ChromeDriver(Server):
    """What starts browsers and hands on commands to them.

    Whoever does not know its path, which is new each time, cannot command it.
    """

    program = "chromedriver"
    package = PROGRAMS[program]
    start_timeout = 30.0

    def __init__(self) -> None:
        self._path = f"/{secrets.token_hex(16)}"
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://{self.address}{self._path}"

    def _find_program(self) -> str:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise ServerError(
                f"{' and '.join(missing)} not installed: apt-get install"
                f" {' '.join(PROGRAMS[name] for name in missing)}"
            )
        return str(shutil.which(self.program))

    def _command(self, program: str) -> list[str]:
        # Profiles and caches go where stop() removes them.
        home = [f"{name}={self.directory}" for name in ("HOME", "TMPDIR")]
        at = [f"--port={self.port}", f"--url-base={self._path}"]
        return ["env", *home, program, *at, "--log-level=SEVERE"]

    def _answering_pid(self) -> int | None:
        connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            connection.request("GET", f"{self._path}/status")
            status = connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()
        # Another driver does not know our path.
        return self._pid if status == 200 else None


class Browser(webdriver.Remote):
    """A Chromium with a new, empty profile. Ends with :meth:`quit`.

    :param scripts: whether pages may run scripts. Selenium's own always run.
    :param dark: what the reader prefers.
    """

    def __init__(
        self,
        driver: ChromeDriver,
        *,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        scripts: bool = True,
    ) -> None:
        options = webdriver.ChromeOptions()
        for argument in ARGUMENTS:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not scripts:
            setting = "profile.managed_default_content_settings.javascript"
            options.add_experimental_option("prefs", {setting: 2})
        super().__init__(
            command_executor=ChromiumRemoteConnection(
                remote_server_addr=driver.url,
                vendor_prefix="goog",
                browser_name="chrome",
            ),
            options=options,
        )
        self.set_page_load_timeout(LOAD_TIMEOUT)
        self.resize(width, height)
        self.prefer(dark=dark)

    def command(self, name: str, **parameters: Any) -> Any:
        """Send a command of Chromium's own protocol, as ``Page.captureScreenshot``."""
        sent = {"cmd": name, "params": parameters}
        return self.execute("executeCdpCommand", sent)["value"]

    def resize(self, width: int, height: int) -> None:
        """Show pages in that many CSS pixels; a window could not be that narrow."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, *, dark: bool) -> None:
        """Have the reader prefer dark pages, or light ones."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def find(self, selector: str, text: str = "") -> WebElement:
        """The only visible element of a CSS selector that has ``text`` in it.

        Waits for it, as a page may still be on its way.
        """
        eventually(lambda: len(self._shown(selector, text)) == 1)
        found = self._shown(selector, text)
        if len(found) != 1:
            body = self.find_element("css selector", "body").text
            raise AssertionError(
                f"{len(found)} elements {selector} with {text!r} at"
                f" {self.current_url}:\n{body}"
            )
        return found[0]

    def _shown(self, selector: str, text: str) -> list[WebElement]:
        try:
            return [
                element
                for element in self.find_elements("css selector", selector)
                if element.is_displayed() and text in element.text
            ]
        except WebDriverException:
            return []  # another page takes the place of this one

    def press(self, *keys: str) -> None:
        """Press keys one after another, where the focus is."""
        actions = webdriver.ActionChains(self)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    def tab_to(self, selector: str, text: str = "") -> WebElement:
        """Press Tab until the focus is on that element, as someone without a mouse."""
        wanted = self.find(selector, text)
        for _ in range(PRESSES):
            if self.switch_to.active_element == wanted:
                return wanted
            self.press(Keys.TAB)
        raise AssertionError(f"Tab does not reach {selector} {text!r}")

    def complaints(self) -> list[str]:
        """What the console has said since the last call, refused contents included."""
        entries = self.execute("getLog", {"type": "browser"})["value"]
        return [entry["message"] for entry in entries]

    def widths(self) -> tuple[int, int]:
        """How wide the page is, and how much of it can be seen without scrolling."""
        wide, seen = self.execute_script(
            "const page = document.scrollingElement;"
            "return [page.scrollWidth, page.clientWidth]"
        )
        return wide, seen

    def violations(self, impacts: Iterable[str] = ("serious", "critical")) -> list[str]:
        """What axe-core finds on this page that has one of these impacts."""
        if not AXE.exists():
            raise ServerError(f"no {AXE}: tests/setup_machine.sh browser gets it")
        self.execute_script(AXE.read_text("utf-8"))
        found = self.execute_script("return axe.run()")
        if not found["passes"]:
            raise AssertionError(f"axe-core has checked nothing of {self.current_url}")
        return [
            f"{violation['id']} ({violation['impact']}): {node['html']}:"
            f" {node['failureSummary']}"
            for violation in found["violations"]
            if violation["impact"] in impacts
            for node in violation["nodes"]
        ]

    def picture(self, *, whole: bool = False) -> bytes:
        """What is seen of the page, or all of it, as a PNG."""
        taken = self.command("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(taken["data"])
