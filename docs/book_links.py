#!/usr/bin/env python3
"""A preprocessor of mdBook. Files outside docs/, which pages include, have links relative to their
own directory, and pages refer to those files. In the book, each of them is a page. Other files
outside docs/, such as examples, are not in the book: links to them become text."""

import json
import re
import sys
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

PAGES = {
    "ARCHITECTURE.md": "docs/architecture.md",
    "CHANGELOG.md": "docs/changelog.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "SECURITY.md": "docs/security.md",
    "python/README.md": "docs/python.md",
}


def rewrite(text: str, page: str) -> str:
    """Return the text of a page of docs/ with the links that the book needs."""
    sources = [file for file, included in PAGES.items() if included == page]
    bases = [dirname(file) for file in (*sources, page)]

    def link(match: re.Match[str]) -> str:
        target, hash_, heading = match[2].partition("#")
        if not target or "://" in target:
            return match[0]
        # A page may have links besides those of the file that it includes.
        targets = [normpath(join(base, target)) for base in bases]
        target = next((one for one in targets if (PROJECT / one).exists()), targets[0])
        if target not in PAGES and not target.startswith("docs/"):
            return match[1]
        target = PAGES.get(target, target)
        # mdBook renames these pages, but not the links to them.
        if target.startswith("docs/"):
            target = re.sub(r"/README\.md$", "/index.md", target)
        return f"[{match[1]}]({relpath(target, dirname(page))}{hash_}{heading})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def visit(items: list[Any]) -> None:
    """Rewrite chapters and those within them."""
    for item in items:
        if chapter := item != "Separator" and item.get("Chapter"):
            if chapter["path"]:
                chapter["content"] = rewrite(chapter["content"], join("docs", chapter["path"]))
            visit(chapter["sub_items"])


if __name__ == "__main__":
    if sys.argv[1:2] != ["supports"]:
        _, book = json.load(sys.stdin)
        visit(book.get("items") or book["sections"])
        json.dump(book, sys.stdout)
