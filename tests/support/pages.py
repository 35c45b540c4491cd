"""Reads a page as a browser without a network would: its elements, its texts, and what it would have to fetch."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

_FETCHING = {"src", "href", "srcset", "data", "action", "poster", "background", "formaction"}
_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """A parsed page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        """Attributes and styles that would make a browser fetch something."""
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.payload: Any = None
        self.unclosed: list[str] = []
        self._data = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.unclosed.append(tag)
        if tag in ("link", "iframe", "img", "object", "embed", "base"):
            self.outside.append(tag)
        self.outside += [f"{name}={value}" for name, value in attrs if name in _FETCHING]
        self._data = ("id", "data") in attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag, f"{tag} ends what it did not begin"

    def handle_data(self, data: str) -> None:
        if self._data and self.unclosed[-1] == "script":
            self.payload = json.loads(data)
            return
        if self.unclosed[-1:] == ["style"]:
            self.outside += re.findall(r"@import|url\([^)]*\)", data)
        elif self.unclosed[-1:] == ["script"]:
            # The namespace of SVG is a name, not an address.
            code = data.replace('"http://www.w3.org/2000/svg"', "")
            self.outside += re.findall(r"https?://|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\b", code)
        elif "td" in self.unclosed[-2:] or "th" in self.unclosed[-2:]:
            self.rows[-1][-1] += data
        else:
            self.texts.append(data)
