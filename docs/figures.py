#!/usr/bin/env python3
"""Draws the figures of the README: figures.py DISKIMG.

`figures/speed.svg` shows the table of docs/performance.md, `figures/terminal.svg` what the command
DISKIMG prints.
"""

import os
import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
STYLE = f"""
text {{ font: 13px {FONT}; fill: #24292f; white-space: pre; }}
.back {{ fill: #f6f8fa; stroke: #d0d7de; }}
.ours {{ fill: #0b7285; }} .theirs {{ fill: #adb5bd; }}
.dim {{ fill: #57606a; }} .prompt {{ fill: #0b7285; font-weight: bold; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }} .back {{ fill: #161b22; stroke: #30363d; }}
.ours {{ fill: #3bc9db; }} .theirs {{ fill: #495057; }}
.dim {{ fill: #8b949e; }} .prompt {{ fill: #3bc9db; }}
}}
"""
# Rows of the table that the chart shows, and their labels.
SHOWN = {
    "raw → qcow2 `-c` (zlib)": "raw → qcow2, compressed (zlib)",
    "raw → qcow2 `-c` (zstd)": "raw → qcow2, compressed (zstd)",
    "qcow2 (zlib) → raw": "compressed qcow2 → raw",
    "streamOptimized → qcow2": "streamOptimized VMDK → qcow2",
    "raw → VMDK monolithicSparse": "raw → VMDK",
    "VMDK → qcow2": "VMDK → qcow2",
    "16 TiB raw with 300 MiB → qcow2": "16 TiB raw, 300 MiB of data → qcow2",
    "raw → qcow2": "raw → qcow2",
}
# What the recording shows.
SESSION = [
    "diskimg convert -c appliance.ova:1 server.qcow2",
    "diskimg compare appliance.ova:1 server.qcow2",
    "diskimg inspect --claimed qcow2 server.qcow2",
    "diskimg create server.vmdk 10G",
    "diskimg inspect --claimed raw server.vmdk || echo $?",
]


def svg(width: int, height: int, title: str, body: list[str]) -> str:
    """Return an SVG image."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="back" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" '
            'rx="6"/>',
            *body,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, content: str, style: str = "", anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(content)}</text>'


def measured() -> dict[str, tuple[float, float]]:
    """Return the seconds of diskimg and qemu-img in each row of the table."""
    row = re.compile(r"\| (.+?) \| ([\d.]+) s \| ([\d.]+) s \|")
    rows = row.findall((DOCS / "performance.md").read_text(encoding="utf-8"))
    return {name: (float(ours), float(theirs)) for name, ours, theirs in rows}


def chart() -> str:
    """Draw the time of each conversion relative to qemu-img's."""
    table = measured()
    left, full, step = 290, 330, 34
    height = 74 + step * len(SHOWN)
    body = [text(16, 26, "Time, relative to qemu-img 10"), text(16, 44, "shorter is better", "dim")]
    y = 64
    for name, label in SHOWN.items():
        ours, theirs = table[name]
        share = full * ours / theirs
        body += [
            text(left - 10, y + 15, label, anchor="end"),
            f'<rect class="theirs" x="{left}" y="{y + 3}" width="{full}" height="16" rx="2"/>',
            f'<rect class="ours" x="{left}" y="{y + 3}" width="{share:.1f}" height="16" rx="2"/>',
            text(left + full + 10, y + 15, f"{theirs / ours:.1f} times as fast"),
        ]
        y += step
    title = "Time of conversions by diskimg relative to qemu-img"
    return svg(left + full + 170, height, title, body)


def recording(program: Path) -> str:
    """Run the commands and draw what they print."""
    lines: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "diskimg").symlink_to(program.resolve())
        path = f"{directory}:{os.environ['PATH']}"
        source = DOCS.parent / "testdata" / "ext4-stream-qemu.vmdk"
        made = ["convert", "-O", "ova", "-o", "name=server", source, "appliance.ova"]
        subprocess.run([program.resolve(), *made], cwd=directory, check=True)
        for command in SESSION:
            lines.append(("prompt", f"$ {command}"))
            ran = subprocess.run(
                ["sh", "-c", command],
                cwd=directory,
                env={**os.environ, "PATH": path, "COLUMNS": "80"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            lines += [("", line) for line in ran.stdout.splitlines()]
    lines = [(style, line) for style, line in lines if line.strip()]
    step = 19
    body = [
        text(18, 30 + step * number, line, style) for number, (style, line) in enumerate(lines)
    ]
    return svg(760, 30 + step * len(lines), "diskimg in a terminal", body)


def main() -> None:
    """Draw both figures."""
    (DOCS / "figures").mkdir(exist_ok=True)
    (DOCS / "figures" / "speed.svg").write_text(chart(), encoding="utf-8")
    drawn = recording(Path(sys.argv[1]))
    (DOCS / "figures" / "terminal.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
