"""Write a newsletter anew from a short list of allowed markup.

nh3 reads it as a browser does and keeps what is allowed. A pass of our own over its clean output does what nh3 cannot:
put words in the place of tokens, judge links and pictures, and leave a description in a picture's place.
"""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Callable
from html.parser import HTMLParser

from civicrm_tools.core.command import Failure
from civicrm_tools.newsletter.personal import Refused, clean_link, judge

HTML_CHARACTERS = 1_000_000
# For one newsletter. nh3 reads 1 MB in 0.1 s; some nonsense, such as elements nested by the thousand, takes minutes.
READ_SECONDS = 10.0

# What a page may consist of. Every other element loses its tags, or all that is in it. A browser adds tbody by itself.
KEPT = (
    "a b blockquote br code dd div dl dt em h1 h2 h3 h4 h5 h6 hr i img li ol p pre small strong sub sup table td tfoot"
    " th thead tr u ul"
)
DROPPED = (
    "applet audio button canvas form iframe map math noembed noframes noscript object option script select style svg"
    " template textarea title video xmp"
)
ATTRIBUTES = {"a": {"href"}, "img": {"alt", "src"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}}
# Text on both sides of these is one word to a reader.
INLINE = ("a", "b", "code", "em", "i", "small", "strong", "sub", "sup", "u")


def need_reader() -> None:
    """Raise Failure where nh3 is missing."""
    try:
        import nh3  # noqa: F401
    except ImportError as error:
        raise Failure("it needs python3-nh3, which Debian has since release 13: publish from such a host") from error


def allowed(source: str) -> str:
    """Return a newsletter's allowed markup, well-formed; raises Refused where it cannot be read in time."""
    import nh3  # Debian 12 has none, and there the other commands run without it

    output: list[str] = []

    def read() -> None:
        output.append(
            nh3.clean(
                source,
                tags=set(KEPT.split()),
                clean_content_tags=set(DROPPED.split()),
                attributes=ATTRIBUTES,
                link_rel=None,
                url_schemes={"http", "https"},
            )
        )

    # No signal interrupts nh3. A thread that takes too long ends with the process, and holds up no other newsletter.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(READ_SECONDS)
    if reader.is_alive():
        raise Refused("markup that takes too long to read")
    if not output:
        raise Refused("markup that cannot be read")
    return output[0]


class Page(HTMLParser):
    """Write allowed markup anew, the same for every reader. `output`: HTML; `visible`: its text, blocks apart."""

    def __init__(self, tokens: Callable[[str], str], image_hosts: list[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.tokens, self.image_hosts = tokens, image_hosts
        self.output: list[str] = []
        self.visible: list[str] = []
        self.links: list[bool] = []  # of each open <a>, whether it was written

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "img":
            self._image(given)
        elif tag == "a":
            link = clean_link(given.get("href"))
            self.links.append(link is not None)
            if link:
                self.output.append(f'<a href="{html.escape(link)}" rel="nofollow noopener noreferrer">')
        else:
            self._separate(tag)
            spans = [f' {name}="{value}"' for name, value in attrs if re.fullmatch(r"[1-9][0-9]?", value or "")]
            self.output.append(f"<{tag}{''.join(spans)}>")

    def handle_endtag(self, tag: str) -> None:
        self._separate(tag)
        if tag != "a" or self.links.pop():
            self.output.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        text = self.tokens(data)
        self.visible.append(text)
        self.output.append(html.escape(text))

    def _separate(self, tag: str) -> None:
        if tag not in INLINE:
            self.visible.append("\n")

    def _image(self, given: dict[str, str]) -> None:
        """Keep a picture of an allowed host; of another, a tracking pixel among them, only what it is called."""
        described = self.tokens(given.get("alt", ""))
        source = clean_link(given.get("src"), self.image_hosts)
        self.visible.append(described)
        escaped = html.escape(described)
        self.output.append(f'<img src="{html.escape(source)}" alt="{escaped}">' if source else escaped)


def token_replacer(tokens: dict[str, str]) -> Callable[[str], str]:
    """Return a function that puts words for any reader in the place of {tokens}; unknown ones stay."""
    if not tokens:
        return lambda text: text
    pattern = re.compile(
        r"\{\s*(" + "|".join(re.escape(name) for name in sorted(tokens, key=len, reverse=True)) + r")\s*\}"
    )
    return lambda text: pattern.sub(lambda found: tokens[found[1]], text)


def sanitised(source: str, tokens: dict[str, str], image_hosts: list[str]) -> str:
    """Return a newsletter's HTML as it may be published; raises Refused with the reasons where it may not."""
    if len(source) > HTML_CHARACTERS:
        raise Refused(f"more than {HTML_CHARACTERS} characters")
    page = Page(token_replacer(tokens), image_hosts)
    page.feed(allowed(source))
    page.close()
    # A stray </p> is an empty paragraph to a browser, and so to nh3.
    output, visible = "".join(page.output).replace("<p></p>", ""), "".join(page.visible)
    # What a reader sees, and once more what was really written.
    judge({"the text": visible, "the markup": html.unescape(output)})
    if not visible.strip():
        raise Refused("no text")
    return output
