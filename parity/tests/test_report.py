"""The report: what it says, that it says it first, and that a browser agrees. Made of toy results, without a run."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from ltx2_mlx.errors import InputError
from parity.cli import main
from parity.commands.report import LATEST
from parity.commands.tables import fill
from parity.declare.model import Case, Stage
from parity.declare.stages import PHASES, stages
from parity.judge import metrics
from parity.judge.results import EXIT_USAGE, PROFILES, Coverage, Results
from parity.judge.verdicts import judge
from parity.report import axes, html, junit, plots, summary, terminal
from parity.report.annotations import MOST, lines, show
from parity.report.markup import number
from parity.report.render import render
from parity.run.cells import manifest
from parity.tap.patch import source_of
from parity.tap.trace import Call, Tensor, Trace
from parity.tests.browser import Page, browser, find

RNG = np.random.default_rng(3)
TAPS = ("patchify_proj", *(f"transformer_blocks.{i}.{part}" for i in range(3) for part in ("attn1", "ff")), "proj_out")
SHAPE = (2, 21, 96)
BAD = "transformer_blocks.1.attn1"
SOURCE = "ltx2_mlx/nn/attention.py:55"


def run(
    fault: Any = None, stage: str = "transformer", config: str = "tiny-2.0", taps: tuple[str, ...] = TAPS
) -> Results:
    """Results of toy tensors in a real stage's name, ``fault`` applied to what ours hands out at ``BAD``."""
    toy = Stage(stage, stage, lambda c: {"base": Case()}, {}, (config,))
    results = Results(environment={"machine": "a test", "device": "cpu", "python": "3.11", "ltx-core": "1.0.0"})
    for lane in "AC":
        sides: list[Trace] = [Trace(), Trace(), Trace()]
        for tap in taps:
            oracle = RNG.standard_normal(SHAPE)
            reference = oracle.astype(np.float32)
            ours = np.nextafter(reference, np.float32(9))
            ours = fault(ours) if fault and tap == BAD else ours
            for trace, values in zip(sides, (reference, oracle, ours), strict=True):
                trace.calls[tap, 0] = Call(tap, 0, {}, {"": Tensor(values, "float32")})
                trace.events.append(("out", tap, 0))
        sides[2].places = {"LTXModel": "ltx2_mlx/transformer.py:301", BAD: SOURCE}
        judge(results, {"stage": stage, "config": config, "case": "base", "lane": lane}, toy, *sides)
    results.coverage.append(Coverage(stage, config, 4, 4, 9, 9, 100, 100))
    results.stages = manifest([(stages()[stage], config)])
    return results


def document(results: Results, folder: Path) -> dict[str, Any]:
    results.write(folder / "results.json")
    return json.loads((folder / "results.json").read_text())


def one_channel(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.shape[-1]) == 5, values * np.float32(1.5), values)


class Reader(HTMLParser):
    """Ids, links, text by id of the enclosing element, and whether every element is closed."""

    VOID = ("meta", "link", "img", "input", "wbr")

    def __init__(self, page: str):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.stack: list[tuple[str, str | None]] = []
        self.said: dict[str, str] = {}
        self.feed(page)
        assert not self.stack, f"left open: {self.stack}"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if name == "a" else []
        if name not in self.VOID:
            self.stack.append((name, found.get("id")))

    def handle_endtag(self, name: str) -> None:
        assert self.stack.pop()[0] == name

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        pass  # a path of an SVG

    def handle_data(self, data: str) -> None:
        for _, identity in self.stack:
            if identity:
                self.said[identity] = self.said.get(identity, "") + data


# ---- what results.json holds for it -------------------------------------------------------------------------------


def test_a_failure_says_where_its_error_is_and_where_our_source_is(tmp_path: Path) -> None:
    rows = document(run(one_channel), tmp_path)["taps"]
    row = next(row for row in rows if row["verdict"] != "pass")
    assert (row["name"], row["source"]) == (BAD, SOURCE)
    channel = next(axis for axis in row["profile"]["axes"] if axis["axis"] == 2)
    assert channel["size"] == 96 and len(channel["ours"]) == metrics.BINS
    assert int(np.argmax(channel["ours"])) == 3  # 96 channels in 64 bins: channel 5 is in the fourth
    assert row["profile"]["map"]["axes"] == [1, 2] and len(row["profile"]["map"]["ours"]) == SHAPE[1]
    assert 0 < row["floor"] < 1e-5
    assert sum("profile" in row for row in rows if row["verdict"] == "pass") == 2, "the worst pass of each lane"


def test_profiles_are_few() -> None:
    results = run(None, taps=tuple(f"{BAD}.{i}" for i in range(40)))
    assert sum(bool(row.profile) for row in results.rows) == 2
    results = Results()
    for trace in range(3):
        toy = Stage("toy", "toy", lambda c: {}, {}, ("any",))
        taps = [f"tap{trace}.{i}" for i in range(9)]
        calls = {(tap, 0): Call(tap, 0, {}, {"": Tensor(RNG.standard_normal((3, 4)), "float64")}) for tap in taps}
        wrong = {key: Call(key[0], 0, {}, {"": Tensor(RNG.standard_normal((3, 4)), "float64")}) for key in calls}
        events = [("out", tap, 0) for tap in taps]
        where = {"stage": "toy", "config": "any", "case": "base", "lane": "A"}
        judge(results, where, toy, Trace(calls, events), Trace(calls, events), Trace(wrong, events))
    assert sum(bool(row.profile) for row in results.rows) == PROFILES < len(results.rows)


def test_a_profile_of_masks_and_of_nan_has_numbers_where_there_are_any() -> None:
    oracle = RNG.standard_normal((4, 5))
    oracle[:, 0] = np.finfo(np.float64).min
    ours = np.where(oracle < -1e37, np.finfo(np.float32).min, oracle)
    ours[1, 2] = np.nan
    columns = next(axis["ours"] for axis in metrics.profile(ours, ours, oracle)["axes"] if axis["axis"] == 1)
    assert columns == [0.0, 0.0, None, 0.0, 0.0]


def test_source_is_a_line_of_the_product_or_nothing() -> None:
    from ltx2_mlx.nn.attention import Attention

    file, line = source_of(Attention).split(":")
    assert file == "ltx2_mlx/nn/attention.py"
    assert "def __init__" in (Path(__file__).parents[2] / file).read_text().splitlines()[int(line) - 1]
    assert source_of(json.dumps) == "" and source_of(len) == ""


def test_every_stage_has_its_place_on_the_map() -> None:
    placed = [name for names in PHASES.values() for name in names]
    assert len(placed) == len(set(placed)) and set(placed) <= set(stages())
    assert {entry["stage"] for entry in manifest([])} == set(stages())


# ---- the page -----------------------------------------------------------------------------------------------------


EXPLANATION = {
    "place": f"transformer tiny-2.0 base A {BAD}",
    "signs": ["in one layer", "one slice"],
    "causes": [
        {
            "cause": "swapped",
            "share": 0.61,
            "meaning": "two rows exchanged",
            "example": "D10",
            "fault": "shift & scale",
        },
        {"cause": "eps", "share": 0.2, "meaning": "another eps", "example": "N01", "fault": "eps 1e-5 for 1e-6"},
    ],
    "constants": ["eps is 1e-05, the reference's is 1e-06"],
    "narrowest": {"file": "ltx2_mlx/nn/attention.py", "first": 85, "last": 87, "text": "gates = sigmoid(x)"},
    "statements": [{"file": "ltx2_mlx/nn/attention.py", "first": 85, "last": 85, "text": "gates = sigmoid(x)"}],
}
COMMANDS = tuple(f"python -m parity {verb} transformer tiny-2.0 base A {BAD}" for verb in ("explain", "bisect"))


def explained(explanation: dict[str, Any] | None = EXPLANATION) -> Results:
    results = run(one_channel)
    results.explanation = explanation
    return results


def test_the_first_divergence_leads_with_its_causes_its_lines_and_its_commands(tmp_path: Path) -> None:
    reader = Reader(html.page(document(explained(), tmp_path)))
    said = reader.said["first-divergence"]
    assert BAD in said and "lane A" in said
    assert "--stage transformer --config tiny-2.0 --lane A" in said
    assert "swapped (61%): two rows exchanged. Most alike: D10, shift & scale." in said
    assert said.index("swapped") < said.index("another eps")
    assert "ltx2_mlx/nn/attention.py:85–87" in said and "gates = sigmoid(x)" in said and SOURCE not in said
    assert EXPLANATION["constants"][0] in said and all(command in said for command in COMMANDS)
    assert BAD in reader.said["failures"]


@pytest.mark.parametrize(
    ("explanation", "why"),
    [
        (None, "needs torch and ltx-core"),
        ({"missing": "It passes when it is fed the inputs."}, "It passes when it is fed"),
    ],
)
def test_without_an_explanation_every_report_says_how_to_get_it(
    explanation: dict[str, Any] | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = explained(explanation)
    found = document(results, tmp_path)
    terminal.show(results, [])
    reports = (Reader(html.page(found)).said["first-divergence"], summary.markdown(found), capsys.readouterr().out)
    for report in reports:
        assert why in report and all(command in report for command in COMMANDS)
    assert SOURCE in reports[0]


def test_every_report_prints_the_same_explanation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = explained()
    found = document(results, tmp_path)
    terminal.show(results, [])
    for report in (summary.markdown(found), capsys.readouterr().out):
        for words in (" 61%  swapped: two rows", "D10: shift & scale", "attention.py:85–87", "gates =", *COMMANDS):
            assert words in report, words
    (first, *_) = lines(found)
    assert first.startswith("::error file=ltx2_mlx/nn/attention.py,line=85,endLine=87,")
    assert first.endswith("%0A".join(("", *COMMANDS)))


def test_links_lead_somewhere_and_elements_are_closed(tmp_path: Path) -> None:
    for results in (run(), run(one_channel)):
        reader = Reader(html.page(document(results, tmp_path)))
        assert len(reader.ids) == len(set(reader.ids))
        assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links), reader.links
        assert {f"stage-{name}" for name in stages()} <= set(reader.ids)


def test_a_part_of_everything_is_not_everything(tmp_path: Path) -> None:
    page = html.page(document(run(), tmp_path))
    assert (
        "Everything that ran passes" in page and f"1 of {sum(len(s.configs) for s in stages().values())} cells" in page
    )
    reader = Reader(page)
    assert "not run" in reader.said["map"] and "vocoder: " in reader.said["not-compared"]
    assert "first-divergence" not in reader.ids


def test_what_is_missing_leads_when_nothing_diverges(tmp_path: Path) -> None:
    results = run()
    results.coverage[0].leaves_compared, results.coverage[0].uncovered = 3, ["patchify_proj"]
    results.unseen = ["transformer apply_rotary_emb"]
    reader = Reader(html.page(document(results, tmp_path)))
    assert "patchify_proj is not compared" in reader.said["first-divergence"]
    assert "apply_rotary_emb is declared" in reader.said["first-divergence"]
    assert "incomplete" in reader.said["map"]


def test_what_was_not_compared_is_there_with_its_reason(tmp_path: Path) -> None:
    said = Reader(html.page(document(run(), tmp_path))).said["not-compared"]
    for stage in stages().values():
        for reason in (*stage.reference_only.values(), *stage.different.values(), *stage.constant.values()):
            assert reason in said
        for names in stage.idle.values():
            assert all(name in said for name in names)


def test_pipelines_and_self_test_are_shown_where_they_are(tmp_path: Path) -> None:
    plain = document(run(), tmp_path)
    assert "pipelines" not in Reader(html.page(plain)).ids and "selftest" not in Reader(html.page(plain)).ids
    rows = [
        {
            "pipeline": "distilled",
            "dtype": "float32",
            "frames": 17,
            "audio": 1e-5,
            "verdict": "diverged",
            "why": "x0.003",
        }
    ]
    found = {"summary": {"faults": 90, "detected": 89}, "matrix": [{"id": "D10", "lane": "A", "detected": False}]}
    reader = Reader(html.page(plain | {"pipelines": rows}, found))
    assert "distilled" in reader.said["pipelines"] and "✕ diverged" in reader.said["pipelines"]
    assert "89" in reader.said["selftest"] and "D10" in reader.said["selftest"] and "✕ no" in reader.said["selftest"]
    assert "x0.003" in reader.said["not-compared"]


def test_text_of_a_run_is_text_on_the_page(tmp_path: Path) -> None:
    found = document(run(one_channel), tmp_path)
    for row in (found["summary"]["first_divergence"], *found["taps"]):
        row["why"], row["case"] = "<script>alert(1)</script>", 'a"b'
    page = html.page(found)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    Reader(page)


def test_the_page_of_a_whole_run_is_small(tmp_path: Path) -> None:
    """66,000 rows in 40 cells, a third of them red."""
    small, rows = document(run(one_channel), tmp_path), []
    wrong = next(row for row in small["taps"] if row["verdict"] != "pass")
    right = next(row for row in small["taps"] if row["verdict"] == "pass")
    for cell in range(40):
        for i in range(1650):
            bad = i % 3 == 0
            own = {"config": f"config-{cell}", "case": f"case {i % 7}", "lane": "ABC"[i % 3], "order": len(rows)}
            row = copy.copy(wrong if bad else right) | own | {"name": f"blocks.{i % 50}.layer{i % 11}.to_out.0"}
            if not bad or i > 3 * PROFILES:
                row.pop("profile", None)
            rows.append(row)
    whole = small | {"taps": rows}
    assert len(html.page(whole).encode()) < 3_000_000
    assert len(summary.markdown(whole).encode()) < 1_000_000
    assert len(ElementTree.tostring(junit.tree(whole))) < 3_000_000


def test_report_is_made_again_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document(run(one_channel), tmp_path)
    written = render(tmp_path / "results.json")
    assert {path.name for path in written} == {"report.html", "summary.md", "junit.xml", "transformer-tiny-2.0.png"}
    before = {path: path.read_bytes() for path in written}
    assert main(["report", str(tmp_path / "results.json")]) == 0
    assert before == {path: path.read_bytes() for path in written}
    assert "report.html" in capsys.readouterr().out
    other = tmp_path / "other.json"
    for content in ("{}", "[]", "not json"):
        other.write_text(content)
        assert main(["report", str(other)]) == EXIT_USAGE
    assert main(["report", str(tmp_path / "nothing.json")]) == EXIT_USAGE
    assert len(capsys.readouterr().err.strip().splitlines()) == 4
    assert LATEST.name == "results.json"


def test_pictures_are_drawn_of_what_fails_or_when_asked_for(tmp_path: Path) -> None:
    found = document(run(), tmp_path)
    assert plots.by_depth(found, tmp_path) == []
    assert [path.name for path in plots.by_depth(found, tmp_path, every=True)] == ["transformer-tiny-2.0.png"]
    assert [path.name for path in plots.by_depth(document(run(one_channel), tmp_path), tmp_path)] == [
        "transformer-tiny-2.0.png"
    ]


# ---- for machines -------------------------------------------------------------------------------------------------


def test_junit_names_the_tap_and_why(tmp_path: Path) -> None:
    results = run(one_channel)
    results.unseen = ["transformer apply_rotary_emb"]
    root = junit.tree(document(results, tmp_path))
    found = {(suite.get("name"), case.get("name")): case for suite in root for case in suite}
    lane = found["transformer tiny-2.0", "lane A"].find("failure")
    assert BAD in lane.get("message") and "ratio" in lane.get("message") and SOURCE in lane.text
    assert found["transformer tiny-2.0", "coverage"].find("failure") is None
    assert found["manifest", "transformer apply_rotary_emb"].find("failure") is not None
    assert (root.get("tests"), root.get("failures")) == ("4", "3")
    green = junit.tree(document(run(), tmp_path))
    assert green.get("failures") == "0"


def test_junit_can_be_read_whatever_a_message_holds(tmp_path: Path) -> None:
    found = document(run(one_channel), tmp_path)
    for row in found["taps"]:
        row["why"] = "a\x00b\x1b[31m<&>\ud800"
    path = junit.write(found, tmp_path / "junit.xml")
    assert "a�b�[31m<&>�" in ElementTree.parse(path).find(".//failure").get("message")


def test_annotations_are_few_worst_first_and_at_our_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = document(run(one_channel), tmp_path)
    bad = next(row for row in found["taps"] if row["verdict"] != "pass")
    found["taps"] += [bad | {"name": f"tap{i}", "needed_k": 10.0 + i, "why": "50% off\nhere"} for i in range(30)]
    said = lines(found)
    assert len(said) == MOST == 10
    file, line = SOURCE.split(":")
    assert said[0].startswith(f"::error file={file},line={line},title=diverged%3A {BAD}::")
    assert "tap29" in said[1] and "50%25 off%0Ahere" in said[1]
    assert not any("lane C" in line for line in said), "isolated lanes fail, and say where"
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    show(found)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    show(found)
    assert capsys.readouterr().out.splitlines() == said


# ---- tables in documents ------------------------------------------------------------------------------------------


def test_a_table_goes_wherever_it_has_a_place_and_must_have_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one.md", tmp_path / "two.md"
    one.write_text("a\n<!-- x: start -->\nold\n<!-- x: end -->\nb\n")
    two.write_text("<!-- x: start --><!-- x: end --> <!-- y: start -->\n<!-- y: end -->\n")
    fill([one, two], {"x": "new\n", "y": "| y |"})
    assert one.read_text() == "a\n<!-- x: start -->\nnew\n<!-- x: end -->\nb\n"
    assert two.read_text() == "<!-- x: start -->\nnew\n<!-- x: end --> <!-- y: start -->\n| y |\n<!-- y: end -->\n"
    with pytest.raises(InputError, match="no place for the table 'y'"):
        fill([one], {"x": "newer", "y": ""})
    assert "newer" not in one.read_text(), "nothing is written by halves"


# ---- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    executable = find()
    if not executable:
        pytest.skip("no Chromium or Chrome is installed: the page's structure is tested, its looks are not")
    with browser(executable) as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A green, a red and an incomplete report."""
    holed = run()
    holed.coverage[0].leaves_compared, holed.coverage[0].uncovered = 3, ["transformer_blocks.0.a_long_name.to_out.0"]
    found = {}
    for name, results in (("green", run()), ("red", explained()), ("incomplete", holed)):
        folder = tmp_path_factory.mktemp(name)
        results.write(folder / "results.json")
        found[name] = render(folder / "results.json")[0]
    return found


@pytest.mark.parametrize("name", ["green", "red", "incomplete"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_nothing_overflows_and_nothing_complains(
    chromium: Page, pages: dict[str, Path], name: str, width: int, height: int
) -> None:
    chromium.complaints.clear()
    chromium.open(pages[name], width, height, dark=name == "green")
    chromium.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert chromium.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert chromium.evaluate("innerWidth") == width
    swatches = "[...document.querySelectorAll('.key svg')].map((swatch) => swatch.getBoundingClientRect().width)"
    assert set(chromium.evaluate(swatches)) == {22}
    assert chromium.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].every((a) => document.getElementById(a.hash.slice(1)))"
    )
    assert chromium.complaints == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_a_failure_and_its_cause_are_seen_without_scrolling(
    chromium: Page, pages: dict[str, Path], width: int, height: int
) -> None:
    chromium.open(pages["red"], width, height)
    bottom = "document.querySelector('#causes + ol').getBoundingClientRect().bottom"
    assert 0 < chromium.evaluate(bottom) <= height
    assert BAD in chromium.evaluate("document.querySelector('.finding .place').innerText")
    assert chromium.evaluate("document.getElementById('first-divergence').getBoundingClientRect().top") > 0


def test_the_filter_filters_and_a_link_opens_its_part(chromium: Page, pages: dict[str, Path]) -> None:
    chromium.open(pages["red"], 1280, 800)
    visible = "[...document.querySelectorAll('#failures tbody tr')].filter((row) => !row.hidden).length"
    assert chromium.evaluate(visible) == 2
    type_in = "const i = document.querySelector('.filter input'); i.value = 'no such tap';"
    chromium.evaluate(f"(() => {{ {type_in} i.dispatchEvent(new Event('input')); }})()")
    assert chromium.evaluate(visible) == 0
    chromium.open(pages["green"], 1280, 800)
    part = "document.getElementById('cell-transformer-tiny-2.0').open"
    assert chromium.evaluate(part) is False
    chromium.evaluate("document.querySelector('a[href=\"#cell-transformer-tiny-2.0\"]').click()")
    look = f"function look(left) {{ {part} || !left ? done() : setTimeout(look, 5, left - 1); }}"
    chromium.evaluate(f"new Promise((done) => {{ ({look})(2000); }})")
    assert chromium.evaluate(part) is True


def test_axes_of_a_layout_that_is_not_known_are_numbered() -> None:
    assert axes.names("audio", 3) == ("sample", "channel", "time")
    assert axes.names("sound", 3) == ("axis 0", "axis 1", "axis 2"), "an older results.json may say so"


def test_a_run_of_the_released_depth_has_what_was_reported_of_it_beside_its_curves(tmp_path: Path) -> None:
    deep = tuple(f"transformer_blocks.{i}{part}" for i in range(48) for part in (".attn2", ""))
    page = html.page(document(run(taps=("patchify_proj", *deep)), tmp_path))
    assert (
        "reported for the released 19B, lowest: from 3 at transformer_blocks.0 to 66 at transformer_blocks.47" in page
    )
    assert f"highest: from 3 at transformer_blocks.0 to {number(425)} at transformer_blocks.47" in page
    assert "text attention as a share of the stream" in page
    assert "reported for the released 19B" not in html.page(document(run(), tmp_path))


def test_blocks_without_room_for_all_of_their_numbers_are_numbered_evenly() -> None:
    names = [f"transformer_blocks.{block}.attn{tap}" for block in range(48) for tap in range(9)]
    ticks = list(plots._layers(["patchify_proj", "_prepare", *names, "norm_out"]))
    apart = [after - before for before, after in pairwise(ticks)]
    assert len(ticks) > 20 and max(apart) <= 2 * 9 + 2
