"""The page that shows what the experiments found."""

from pentti.report.page import render
from pentti.report.run import Progress, build, chosen

__all__ = ["Progress", "build", "chosen", "render"]
