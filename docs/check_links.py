"""Check the relative links of the Markdown pages: files and images exist, anchors name a heading.

    python docs/check_links.py [ROOT]

Prints `page:line: what is wrong` for every broken link and exits with 1 if there is one. Links to other hosts are not
followed: the result depends on the checkout alone.
"""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

# Inline links and images (one level of brackets in the text: an image that is a link), reference definitions, HTML.
LINK = re.compile(r"\]\(\s*<?([^\s)>]+)>?[^)]*\)|^ {0,3}\[[^\]^]+\]:\s+<?(\S+?)>?(?:\s|$)|(?:src|href)=\"([^\"]+)\"")
EXPLICIT_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)(?:\s+#+)?\s*$")
FENCE = re.compile(r"^\s*(`{3,}|~{3,})")


def pages(root: Path) -> list[Path]:
    """The Markdown files of the repository's top and of its docs folder."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def prose(page: Path) -> list[tuple[int, str]]:
    """The numbered lines outside fenced code blocks."""
    lines: list[tuple[int, str]] = []
    fence = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        marker = FENCE.match(line)
        if marker and not fence:
            fence = marker[1]
        elif marker and marker[1].startswith(fence):
            fence = ""
        elif not fence:
            lines.append((number, line))
    return lines


def anchors(page: Path) -> set[str]:
    """The anchors of a page by GitHub's rule: lower case, no punctuation, hyphens for spaces, repeats numbered."""
    found: set[str] = set()
    seen: dict[str, int] = {}
    for _, line in prose(page):
        found.update(EXPLICIT_ANCHOR.findall(line))
        if heading := HEADING.match(line):
            text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            repeats = seen.get(slug, 0)
            seen[slug] = repeats + 1
            found.add(f"{slug}-{repeats}" if repeats else slug)
    return found


def fault(root: Path, page: Path, link: str) -> str | None:
    """What is wrong with one link of a page, or None."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE):
        return None
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(root):
        return f"{link} leads out of the repository"
    if not target.exists():
        return f"{link}: no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{link}: no such heading"
    return None


def main(root: Path) -> int:
    """Print the broken links below root and return the exit status."""
    checked = broken = 0
    for page in pages(root):
        for number, line in prose(page):
            for match in LINK.finditer(re.sub(r"`[^`]*`", "", line)):
                checked += 1
                if problem := fault(root, page, next(filter(None, match.groups()))):
                    broken += 1
                    print(f"{page.relative_to(root)}:{number}: {problem}")
    print(f"{checked} links in {len(pages(root))} pages, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()))
