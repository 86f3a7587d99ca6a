"""robots.txt, by the cases of RFC 9309."""

import time

import pytest

from scripts.collection.web.robots import Robots

AGENT = "SeeFood-collect"


def allowed(text, path, agent=AGENT):
    return Robots(text.encode()).allows(agent, f"https://example.org{path}")


@pytest.mark.parametrize(
    ("rules", "path", "may"),
    [
        # 5.2: the longest match
        ("Allow: /example/page/\nDisallow: /example/page/disallowed.gif", "/example/page/disallowed.gif", False),
        ("Disallow: /\nAllow: /photos/", "/photos/1.jpg", True),
        ("Disallow: /\nAllow: /photos/", "/other/1.jpg", False),
        ("Allow: /\nDisallow: /photos", "/photos/1.jpg", False),
        ("Allow: /page\nDisallow: /*.htm", "/page.htm", False),
        # 2.2.2: of two as long, the one that allows
        ("Disallow: /folder\nAllow: /folder", "/folder/1", True),
        ("Allow: /folder\nDisallow: /folder", "/folder/1", True),
        # 2.2.3: special characters
        ("Disallow: *.gif$", "/a/b.gif", False),
        ("Disallow: *.gif$", "/a/b.gif?size=1", True),
        ("Disallow: /example/*/this$", "/example/a/b/this", False),
        ("Disallow: /example/*/this$", "/example/this/that", True),
        ("Disallow: /this/is/a/path$", "/this/is/a/path", False),
        ("Disallow: /this/is/a/path$", "/this/is/a/path/", True),
        ("Disallow: /path/file-with-a-%2A.html", "/path/file-with-a-*.html", False),
        ("Disallow: /path/foo-%24", "/path/foo-$", False),
        ("Disallow: /a*a$", "/a", True),
        ("Disallow: /$", "/", False),
        ("Disallow: /$", "/x", True),
        ("Disallow: *", "/x", False),
        ("Disallow: /*?private", "/x?private=1", False),
        # 2.2.2: escaped or not
        ("Disallow: /foo/bar/ツ", "/foo/bar/%E3%83%84", False),
        ("Disallow: /foo/bar/%E3%83%84", "/foo/bar/%e3%83%84", False),
        ("Disallow: /foo/bar/%62%61%7A", "/foo/bar/baz", False),
        ("Disallow: /foo%2Fbar", "/foo/bar", True),
        # nothing is forbidden
        ("Disallow:", "/x", True),
        ("", "/x", True),
        ("Disallow: /x", "/X", True),
        ("Disallow: /", "/robots.txt", True),
        ("Disallow: /x # /y", "/y", True),
    ],
)
def test_the_longest_path_that_fits_decides(rules, path, may):
    assert allowed(f"User-agent: *\n{rules}\n", path) is may


# 5.1, and 2.2.1: which group
TWO = """\
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("agent", "path", "may"),
    [
        ("foobot", "/example/page.html", True),
        ("FooBot", "/publications/x", False),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/other.html", True),
        ("quxbot", "/example/", True),
        ("another", "/example/", False),
        ("another", "/publications/x", True),
        ("foo", "/publications/x", True),
    ],
)
def test_an_agents_own_group_counts_and_else_that_of_all(agent, path, may):
    assert allowed(TWO, path, agent) is may


@pytest.mark.parametrize(
    "text",
    [
        "User-agent: seefood-collect\nDisallow: /a\n\nUser-agent: *\nDisallow: /\n\nUser-agent: SeeFood-Collect\nDisallow: /b\n",
        "\ufeffuser-agent: SeeFood-collect/1.0\r\nSitemap: /map\r\nUser-agent: other\r\nDisallow: /a\r\nUnknown: x\r\nDisallow: /b",
        "User-agent: SeeFood-collect\rUser-agent: x\r\rDISALLOW : /a\rno colon\rDisallow: /b\r",
    ],
    ids=["merged", "other lines", "line ends"],
)
def test_groups_of_one_agent_are_one_whatever_stands_between(text):
    assert [allowed(text, path) for path in ("/a", "/b", "/c")] == [False, False, True]


def test_what_is_no_robots_file_forbids_nothing():
    assert Robots(b"\x00\xff\xfe<html>: :: Disallow: /").allows(AGENT, "https://example.org/x")
    assert allowed("Disallow: /\n", "/x")  # before any agent


def test_the_longest_delay_of_ones_own_group_counts():
    text = "User-agent: *\nCrawl-delay: 5\n\nUser-agent: SeeFood-collect\nCrawl-delay: 1.5\nCrawl-delay: soon\nCrawl-delay: nan\n"
    assert Robots(text.encode()).delay_s(AGENT) == 1.5
    assert Robots(text.encode()).delay_s("another") == 5
    assert Robots(b"").delay_s(AGENT) == 0


def test_a_rule_of_many_stars_takes_no_time():
    start = time.process_time()
    assert allowed(f"User-agent: *\nDisallow: /{'*a' * 2000}b$\n", "/" + "a" * 5000)
    assert time.process_time() - start < 5
