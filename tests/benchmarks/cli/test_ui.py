"""The MLflow page in a real browser: comparing trials of three algorithms is useful as it stands."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from paceline.reports.measures.results import search
from tests.checkout import BENCHMARK, Checkout
from tests.lacking import lacking

pytestmark = pytest.mark.timeout(300)
BROWSER = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",  # else it looks for its maker's hosts
    "--disable-component-update",
    "--virtual-time-budget=30000",
    "--window-size=2600,3000",  # the page draws only the part of a table that can be seen
]


@pytest.fixture(scope="module")
def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        lacking("chromium is not installed")
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A benchmark of three algorithms that has run to its end."""
    averaging = "  sync_sgd: {}\n  model_averaging: {tau: 4}\n"
    text = BENCHMARK.replace("  sync_sgd: {}\n", averaging)
    checkout = Checkout(tmp_path_factory.mktemp("three"), text)
    done = checkout.run()
    assert done.returncode == 0, done.stderr + done.stdout
    return checkout


def test_the_pages_show_what_differs_between_three_algorithms_and_on_what_data(
    browser: str, three: Checkout, tmp_path: Path
) -> None:
    runs = search(three.client, "tiny", paceline__kind="trial")
    assert len(runs) == 3
    server = three.start("ui", "--port", "0", stderr=subprocess.STDOUT)
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        address = next(
            found[0]
            for line in lines
            if (found := re.search(r"http://127\.0\.0\.1:[1-9]\d*", line)) and "Uvicorn" in line
        )
        experiment = runs[0].info.experiment_id
        chosen, experiments = (
            urllib.parse.quote(json.dumps(ids))
            for ids in ([run.info.run_id for run in runs], [experiment])
        )
        profile = f"--user-data-dir={tmp_path / 'profile'}"

        def shown(place: str) -> str:
            page = subprocess.run(
                [browser, *BROWSER, profile, "--dump-dom", f"{address}/#/{place}"],
                capture_output=True,
                text=True,
                timeout=120,
            )
            return re.sub(r"<[^>]+>", " ", page.stdout)

        text = shown(f"compare-runs?runs={chosen}&experiments={experiments}")
        of_one = shown(f"experiments/{experiment}/runs/{runs[0].info.run_id}")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
        server.stdout.close()
    assert "Comparing 3 Runs from 1 Experiment" in text
    for run in runs:
        assert run.info.run_name in text
    for name in ("algorithm", "model_averaging", "partition.kind", "tau"):
        assert name in text
    for metric in ("bytes_sent_per_worker", "examples_per_s", "final_loss"):
        assert metric in text
    for run in runs:
        assert str(round(run.data.metrics["final_loss"], 3)) in text
    (data,) = (entry.dataset for entry in runs[0].inputs.dataset_inputs)
    assert data.digest in of_one
    assert f"seed 0; tiny on {data.name}." in of_one
