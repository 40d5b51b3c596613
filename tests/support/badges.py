"""The badges at the top of the README, drawn from setup.cfg: nothing from elsewhere.

PYTHONPATH=tests python -m support.badges
"""

from __future__ import annotations

import configparser
import re

from support import ROOT

FOLDER = ROOT / "docs" / "images"

#: Shape of a badge: a dark label, and what it says on a colour beside it.
SHAPE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" \
aria-label="{label}: {text}">
<rect width="{width}" height="20" rx="3" fill="#4b5563"/>
<path d="M{left} 0h{arm}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{arm}z" fill="#0f766e"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" \
text-anchor="middle">
<text x="{label_at}" y="14" textLength="{label_length}">{label}</text>
<text x="{text_at}" y="14" textLength="{text_length}">{text}</text>
</g>
</svg>
"""


def badges() -> dict[str, str]:
    """Return the badges' SVG by their files' names."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", "utf-8")
    metadata = parser["metadata"]
    minors = [
        int(minor)
        for minor in re.findall(r"Python :: 3\.(\d+)", metadata["classifiers"])
    ]
    return {
        "badge-python.svg": badge("python", f"3.{min(minors)} to 3.{max(minors)}"),
        "badge-license.svg": badge("licence", metadata["license"]),
        "badge-typed.svg": badge("typed", "mypy --strict"),
    }


def badge(label: str, text: str) -> str:
    """Draw one; a letter is taken for 7 units wide, and stretched to that."""
    label_length, text_length = 7 * len(label), 7 * len(text)
    left = label_length + 12
    width = left + text_length + 12
    return SHAPE.format(
        label=label,
        text=text,
        width=width,
        left=left,
        arm=width - left - 3,
        label_at=left / 2,
        label_length=label_length,
        text_at=left + (width - left) / 2,
        text_length=text_length,
    )


if __name__ == "__main__":
    for name, svg in badges().items():
        (FOLDER / name).write_text(svg, "utf-8")
