"""What holds for every test: reproducible hypothesis examples, and no skipped test that hides a hole."""

import os

# Before NumPy and torch are loaded: with a second thread, small products on a busy machine mostly wait (measured: 25
# times), and `make test` has a process on every core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The same examples on every machine and no time limit, so that a slow or busy machine cannot make a test fail.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, fail if a test was skipped that does not carry the `gpu` marker (a module-level skip cannot)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    hidden = [report.nodeid for report in skipped if "gpu" not in getattr(report, "keywords", ())]
    if hidden:
        session.shouldfail = f"skipped without the gpu marker: {', '.join(hidden)}"
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
