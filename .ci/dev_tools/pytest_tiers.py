"""pytest plugin: a tier that has to run and does not is a failure, not a quiet success."""

from collections import Counter
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option that names the tiers."""
    parser.addoption("--required-tier", action="append", default=[], metavar="NAME", help="fail unless a test of tests/NAME ran")


class RequiredTiers:
    """Counts the tests of each tier that ran to their end."""

    def __init__(self, tests: Path, tiers: list[str]) -> None:
        """`tests` is the folder that holds one folder per tier."""
        self._tests, self._tiers = tests, tiers
        self._ran: Counter[str] = Counter()
        self._tier_of: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note which tier each test belongs to."""
        for item in items:
            if self._tests in item.path.parents:
                self._tier_of[item.nodeid] = item.path.relative_to(self._tests).parts[0]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that was called and not skipped."""
        if report.when == "call" and not report.skipped:
            self._ran[self._tier_of.get(report.nodeid, "")] += 1

    def missing(self) -> list[str]:
        """The required tiers of which no test ran."""
        return [tier for tier in self._tiers if not self._ran[tier]]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a success without them into a failure."""
        if self.missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which tier is missing."""
        for tier in self.missing():
            terminalreporter.write_line(
                f"REQUIRED TIER MISSING: no test of tests/{tier} ran, it was skipped or not collected", red=True
            )


def pytest_configure(config: pytest.Config) -> None:
    """Start counting."""
    config.pluginmanager.register(RequiredTiers(config.rootpath / "tests", config.getoption("--required-tier")), "required-tiers")
