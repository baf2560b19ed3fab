"""What runs when: the two tiers, and skips that are failures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SKIPPING = {
    "in the test": "import pytest\ndef test_it():\n    pytest.skip('no reason')\n",
    "by a mark": "import pytest\n@pytest.mark.skip(reason='no reason')\ndef test_it():\n    pass\n",
    "in a fixture": (
        "import pytest\n@pytest.fixture\ndef it():\n    pytest.skip('no reason')\ndef test_it(it):\n    pass\n"
    ),
    "the whole file": "import pytest\npytest.skip('no reason', allow_module_level=True)\ndef test_it():\n    pass\n",
    "for want of a package": "import pytest\npytest.importorskip('no_such_package')\ndef test_it():\n    pass\n",
}
GPU = "import pytest\n@pytest.mark.gpu\ndef test_it():\n    pytest.skip('no GPU')\n"
BROWSER = "def test_it(browser):\n    assert browser.contexts == []\n"
EXPECTED_FAILURE = "import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert False\n"


@pytest.fixture
def outcomes(pytester, monkeypatch):
    """Runs a file beside this suite's own conftest.py."""

    def _outcomes(content, no_skips):
        monkeypatch.delenv("POLYGRAFT_NO_SKIPS", raising=False)
        if no_skips:
            monkeypatch.setenv("POLYGRAFT_NO_SKIPS", "1")
        pytester.makeconftest((ROOT / "tests/conftest.py").read_text(encoding="utf-8"))
        pytester.makeini("[pytest]\nmarkers = gpu\n")
        pytester.makepyfile(content)
        result = pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider")
        return result.parseoutcomes(), int(result.ret)

    return _outcomes


@pytest.mark.parametrize("how", SKIPPING)
def test_a_skip_is_a_failure_where_nothing_may_be_skipped(outcomes, how):
    assert outcomes(SKIPPING[how], no_skips=False)[0] == {"skipped": 1}
    found, code = outcomes(SKIPPING[how], no_skips=True)
    assert "skipped" not in found and found.get("failed", 0) + found.get("errors", 0) == 1
    assert code != 0


def test_what_needs_a_gpu_may_be_skipped_and_what_is_known_to_fail_may_fail(outcomes):
    assert outcomes(GPU, no_skips=True) == ({"skipped": 1}, 0)
    assert outcomes(EXPECTED_FAILURE, no_skips=True) == ({"xfailed": 1}, 0)


def test_what_needs_a_browser_may_be_skipped_where_there_is_none(outcomes, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert outcomes(BROWSER, no_skips=True) == ({"skipped": 1}, 0)


def make(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_two_tiers_are_everything():
    assert '-m "not slow"' in make("test")
    assert "-m slow" in make("test-slow")
    steps = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert [step for step in steps if step.startswith("make ")] == ["make test", "make test-slow", "make check"]
    assert "export POLYGRAFT_NO_SKIPS=1" in steps
