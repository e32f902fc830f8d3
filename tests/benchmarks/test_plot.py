from __future__ import annotations

import xml.etree.ElementTree as ET

from benchmarks.plot import bars, lines

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_longer_where_the_value_is_larger() -> None:
    drawn = ET.fromstring(bars("A <b>", "us", [("x & y", [("text", 10.0), ("tool", 1000.0)])], marked="x"))  # noqa: S314
    short, long = (float(bar.attrib["width"]) for bar in drawn.iter(f"{SVG}rect"))
    assert long > short > 0
    assert any(text.text == "x & y" for text in drawn.iter(f"{SVG}text"))


def test_a_value_that_does_not_grow_is_a_level_line() -> None:
    drawn = ET.fromstring(  # noqa: S314
        lines("t", "agents", "us", {"level": [(1, 50.0), (10_000, 50.0)], "steep": [(1, 5.0), (10_000, 500.0)]})
    )
    level, steep = (
        [point.split(",")[1] for point in line.attrib["points"].split()] for line in drawn.iter(f"{SVG}polyline")
    )
    assert level[0] == level[1]
    assert float(steep[0]) > float(steep[1])
