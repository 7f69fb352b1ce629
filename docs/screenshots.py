"""Takes the pictures of the documentation: `make screenshots`, after `make run`. Needs Debian's chromium, or CHROMIUM=path.

Everything shown is real: the instance that `make run` left, served by its own daemon, code server and webserver. One learning
run, one notebook and one further run of a workflow are started here, so that there is something to see before, while and after.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from assets.neighbours.running import neighbours
from workflows_pkg.orchestration.instance import open_instance
from workflows_pkg.orchestration.launch import submit
from workflows_pkg.orchestration.services import Services

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1280, 800
TALL = 1200
PATIENCE_S = 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".home"), help="instance that `make run` made (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures (default: docs/images)")
    parser.add_argument("--only", help="take the pictures whose name contains this")
    given = parser.parse_args()
    home = given.home.resolve()
    if not (home / "history").is_dir():
        sys.exit(f"There is no instance at {home}. Run first: make run")
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("No browser found. Install one (apt-get install chromium), or set CHROMIUM=/path/to/chromium")
    os.environ["DAGSTER_HOME"] = str(home)
    given.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        play = stack.enter_context(sync_playwright())
        chromium = stack.enter_context(closing(play.chromium.launch(executable_path=browser, args=["--no-sandbox"])))
        camera = Camera(chromium, given.out, given.only)
        look_page(home, camera)
        stack.enter_context(neighbours(home, home / "data"))
        services = stack.enter_context(Services(home, ROOT, port=0))
        instance = stack.enter_context(open_instance(home))
        dagster_pages(services, instance, camera)


class Camera:
    """Takes pictures of pages; `only` limits them to those whose name contains it."""

    def __init__(self, browser: Browser, folder: Path, only: str | None) -> None:
        self._browser = browser
        self._folder = folder
        self._only = only

    def wants(self, name: str) -> bool:
        return self._only is None or self._only in name

    def take(
        self,
        name: str,
        url: str,
        ready: Callable[[Page], object],
        *,
        theme: str = "light",
        width: int = WIDTH,
        height: int = HEIGHT,
    ) -> None:
        """One picture once `ready` found on the page what the picture is about; a page that never shows it fails."""
        if not self.wants(name):
            return
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if theme == "dark" else "light",
            device_scale_factor=1,
        )
        page = context.new_page()
        page.goto(url)
        ready(page)
        page.wait_for_timeout(1200)  # transitions and plots that are drawn after their data came
        page.screenshot(path=self._folder / f"{name}.png")
        context.close()
        print(f"{name}.png  {url}", file=sys.stderr)


def look_page(home: Path, camera: Camera) -> None:
    """The page of `workflows look` on the instance, in both themes."""
    if not camera.wants("look"):
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "look.html"
        call = "from workflows_pkg.cli.main import main; main()"
        subprocess.run([sys.executable, "-c", call, "look", str(home), "--out", str(out), "--no-open"], check=True, cwd=ROOT)
        for theme in ("light", "dark"):
            camera.take(f"look-{theme}", out.as_uri(), drawn, theme=theme, height=1500)


def dagster_pages(services: Services, instance: dg.DagsterInstance, camera: Camera) -> None:
    """What the Dagster UI shows."""
    assert services.url is not None
    url, place = services.url, "locations/assets.definitions"
    learning = start(services, instance, "workflows_learning")
    wait(lambda: ended(instance, learning), "the learning run")
    camera.take("workflow", f"{url}/{place}/jobs/flights_daily", steps_shown, width=1500, height=900)
    camera.take("workflow-asset", f"{url}/assets/workflow/flights_daily", text("after departures"))
    camera.take("schedule", f"{url}/{place}/schedules/flights_daily__schedule", text("flights_daily"))
    for asset, words in (("forecasts", "flights_daily"), ("findings", "Most"), ("suggestions", "Step")):
        camera.take(asset, f"{url}/assets/workflows/{asset}", text(words), width=1500, height=1150)
    camera.take("lineage", f"{url}/{place}/asset-groups/workflows/lineage", text("suggestions"))
    if camera.wants("notebook"):
        camera.take("notebook", f"{url}/assets/workflows/notebooks/history_tour", notebook_run_and_opened, height=TALL)
    if camera.wants("run"):
        run_pages(services, instance, camera)


def run_pages(services: Services, instance: dg.DagsterInstance, camera: Camera) -> None:
    """One run of a workflow: what its page said before it began, and how wrong that was."""
    run_id = start(services, instance, "flights_daily", "2013-03-05")
    before = tag(instance, run_id, "workflows/expected")
    camera.take("run-before", f"{services.url}/runs/{run_id}", told("Expected"), height=TALL)
    wait(lambda: ended(instance, run_id), "the run")
    wait(lambda: tag(instance, run_id, "workflows/expected") != before, "what the run took to be told")
    camera.take("run-after", f"{services.url}/runs/{run_id}", told("Took", last=True), height=TALL)
    camera.take("runs", f"{services.url}/runs", text("expected"))


def start(services: Services, instance: dg.DagsterInstance, job: str, partition: str | None = None) -> str:
    return submit(instance, services.workspace_file, job, partition=partition)


def ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    found = instance.get_run_by_id(run_id)
    return found is not None and found.is_finished


def tag(instance: dg.DagsterInstance, run_id: str, key: str) -> str:
    found = instance.get_run_by_id(run_id)
    return "" if found is None else found.tags.get(key, "")


def wait(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"Waited {PATIENCE_S} s for {what}.")
        time.sleep(0.5)


def text(words: str) -> Callable[[Page], object]:
    return lambda page: page.get_by_text(words).locator("visible=true").first.wait_for(timeout=60_000)


def steps_shown(page: Page) -> object:
    """The job as its steps: Dagster begins with its assets."""
    text("clean")(page)
    page.get_by_text("View as Asset Graph").click()
    page.get_by_text("Expand", exact=True).click()
    return text("departures")(page)


def notebook_run_and_opened(page: Page) -> object:
    """Materialises the notebook's asset as a person would, once, and opens what was executed."""
    link = page.get_by_text("Open the notebook").locator("visible=true").first
    text("Latest materialization")(page)
    page.wait_for_timeout(3000)
    if not link.is_visible():
        page.get_by_role("button", name="Materialize").first.click()
        wait(lambda: shown_again(page, link), "the notebook to be executed")
    link.click()
    plot = page.locator(".main-svg").first
    plot.wait_for(timeout=60_000)
    return plot.scroll_into_view_if_needed()


def shown_again(page: Page, wanted: Locator) -> bool:
    """Whether it is on the page, loaded anew: the page of an asset that was made for the first time stays as it was."""
    page.wait_for_timeout(5000)
    if not wanted.is_visible():
        page.reload()
        text("Latest materialization")(page)
        page.wait_for_timeout(3000)
    return wanted.is_visible()


def told(words: str, *, last: bool = False) -> Callable[[Page], object]:
    """The log of a run, at its first lines or at its last."""

    def found(page: Page) -> object:
        text("ENGINE_EVENT")(page)
        page.mouse.move(WIDTH * 0.6, TALL - 200)
        page.wait_for_timeout(3000)  # the log follows its own end until it was moved
        page.mouse.wheel(0, 100_000 if last else -100_000)
        return text(words)(page)

    return found


def drawn(page: Page) -> object:
    return page.wait_for_selector(".main-svg")


@contextmanager
def closing(browser: Browser) -> Iterator[Browser]:
    try:
        yield browser
    finally:
        browser.close()


if __name__ == "__main__":
    main()
