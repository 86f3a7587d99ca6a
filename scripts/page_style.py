"""The style of the pages that commands write or show: what all share (page.css), and a page's own sheet."""

from pathlib import Path

SHARED = Path(__file__).with_name("page.css")


def style_of(own: Path) -> str:
    """Both sheets, for a page that is one file."""
    return SHARED.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
