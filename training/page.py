"""How the HTML pages of this package look."""

import html
from pathlib import Path

from ..sae_ops.atomic_write import write_atomically

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330 }
h1, h2, h3, p { overflow-wrap: anywhere } h1 { font-size: 1.5rem } h3 { font-size: 1rem; margin-bottom: 0 }
p { color: #57606f; margin-top: .2rem } svg { max-width: 100%; height: auto }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1rem 2rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { text-align: left; padding: .15rem 1rem .15rem 0 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
"""


def write_html(page: Path, title: str, body: str, style: str = "") -> None:
    """Writes a page that needs nothing from the network; body is HTML, style is added to the common one."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
    )
    write_atomically(page, lambda part: part.write_text(head + body, encoding="utf-8"))
