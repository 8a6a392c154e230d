"""The report: what it says, that it says it first, and that a browser agrees. Made of toy results, without a run."""

from __future__ import annotations

import copy
import json
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
from parity.judge.results import EXIT_USAGE, PROFILES, Coverage, Item, PipelineRow, Results
from parity.judge.verdicts import judge
from parity.report import axes, causes, history, html, junit, plots, summary, terminal
from parity.report.annotations import MOST, lines, show
from parity.report.digest import views
from parity.report.landmarks import landmarks
from parity.report.render import render
from parity.run.cells import manifest
from parity.run.environment import ROOT, code_digest
from parity.tap.patch import source_of
from parity.tap.trace import Call, Tensor, Trace

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


def page_of(found: dict[str, Any], selftest: dict[str, Any] | None = None) -> str:
    """All pages in one."""
    return html.single(html.Report(found, selftest))


class Reader(HTMLParser):
    """Ids, links, text by id of the enclosing element, and whether every element is closed."""

    VOID = ("meta", "link", "img", "input", "wbr", "br")

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
    reader = Reader(page_of(document(explained(), tmp_path)))
    said = reader.said["first-divergence"]
    assert BAD in said and "lane A" in said
    assert "--stage transformer --config tiny-2.0 --lane A" in said
    assert "swapped (61%): two rows exchanged. Most alike: D10, shift & scale." in said
    assert said.index("swapped") < said.index("another eps")
    assert "ltx2_mlx/nn/attention.py:85–87" in said and "gates = sigmoid(x)" in said and SOURCE not in said
    assert EXPLANATION["constants"][0] in said and all(command in said for command in COMMANDS)
    assert "1 more tensor that follows from it" in said, "the free-running lane"


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
    reports = (Reader(page_of(found)).said["first-divergence"], summary.markdown(found), capsys.readouterr().out)
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
        reader = Reader(page_of(document(results, tmp_path)))
        assert len(reader.ids) == len(set(reader.ids))
        lost = [link for link in reader.links if not link.startswith("#stage=") and link[1:] not in reader.ids]
        assert not lost
        assert {f"stage-{name}" for name in stages()} <= set(reader.ids)


def test_a_part_of_everything_is_not_everything(tmp_path: Path) -> None:
    page = page_of(document(run(), tmp_path))
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
    reader = Reader(page_of(document(results, tmp_path)))
    assert "patchify_proj is not compared" in reader.said["first-divergence"]
    assert "apply_rotary_emb is declared" in reader.said["first-divergence"]
    assert "incomplete" in reader.said["map"]


def test_what_was_not_compared_is_there_with_its_reason(tmp_path: Path) -> None:
    said = Reader(page_of(document(run(), tmp_path))).said["not-compared"]
    for stage in stages().values():
        for reason in (*stage.reference_only.values(), *stage.different().values(), *stage.constant.values()):
            assert reason in said
        for names in stage.idle.values():
            assert all(name in said for name in names)


def test_pipelines_and_self_test_are_shown_where_they_are(tmp_path: Path) -> None:
    plain = document(run(), tmp_path)
    assert "pipelines" not in Reader(page_of(plain)).ids and "selftest" not in Reader(page_of(plain)).ids
    made = PipelineRow("distilled", "tiny-2.0", "float32", 17, 8, 1e-4, 143_793, 1e-7, verdict="diverged", why="x0.003")
    made.details = [Item("frames", 0.2, 0.001, "diverged"), Item("waveform", 1e-6, 1e-4)]
    half = PipelineRow("distilled", "tiny-2.0", "bfloat16", 17, 8, 0.4, 143_793, psnr=49.8, psnr_self=49.7)
    rows = [made.record(), half.record()]
    found = {"summary": {"faults": 90, "detected": 89}, "matrix": [{"id": "D10", "lane": "A", "detected": False}]}
    reader = Reader(page_of(plain | {"pipelines": rows}, found))
    assert "distilled" in reader.said["pipelines"] and "✕ diverged" in reader.said["pipelines"]
    assert "20000%" in reader.said["pipelines"], "an error as a share of its limit"
    assert reader.said["pipelines"].count("143,793") == 1, "in bfloat16 single bytes are not judged, nor shown"
    assert "49.8 dB" in reader.said["pipelines"] and "≥\xa040\xa0dB" in reader.said["pipelines"]
    assert all(words in reader.said["selftest"] for words in ("89", "D10", "not noticed"))
    assert "x0.003" in reader.said["not-compared"]


def test_text_of_a_run_is_text_on_the_page(tmp_path: Path) -> None:
    found = document(run(one_channel), tmp_path)
    for row in (found["summary"]["first_divergence"], *found["taps"]):
        row["why"], row["case"] = "<script>alert(1)</script>", 'a"b'
    page = page_of(found)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    Reader(page)


def test_the_page_of_a_whole_run_is_small(tmp_path: Path) -> None:
    """33,000 rows in the 20 cells of a stage, a third of them red."""
    small, rows = document(run(one_channel), tmp_path), []
    wrong = next(row for row in small["taps"] if row["verdict"] != "pass")
    right = next(row for row in small["taps"] if row["verdict"] == "pass")
    for cell in range(20):
        for i in range(1650):
            bad = i % 3 == 0
            own = {"config": f"config-{cell}", "case": f"case {i % 7}", "lane": "ABC"[i % 3], "order": len(rows)}
            row = copy.copy(wrong if bad else right) | own | {"name": f"blocks.{i % 50}.layer{i % 11}.to_out.0"}
            if not bad or i > 3 * PROFILES:
                row.pop("profile", None)
            rows.append(row)
    whole = small | {"taps": rows}
    report = html.write(html.Report(whole), tmp_path)
    assert all(len(page.read_bytes()) < 1_500_000 for page in (report, *(tmp_path / "report").glob("*.html")))
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


def test_axes_of_a_layout_that_is_not_known_are_numbered() -> None:
    assert axes.names("audio", 3) == ("sample", "channel", "time")
    assert axes.names("sound", 3) == ("axis 0", "axis 1", "axis 2"), "an older results.json may say so"


def test_a_run_of_the_released_depth_has_what_was_reported_of_it_beside_its_curves(tmp_path: Path) -> None:
    deep = tuple(f"transformer_blocks.{i}{part}" for i in range(48) for part in (".attn2", ""))
    found = landmarks(views(document(run(taps=("patchify_proj", *deep)), tmp_path))[_transformer()].cells)
    assert found and found["std"]["transformer_blocks.0"] == (3.0, 3.0)
    assert found["std"]["transformer_blocks.47"] == (66.0, 425.0) and len(found["shares"]["tiny-2.0"]) == 48
    assert landmarks(views(document(run(), tmp_path))[_transformer()].cells) is None


def _transformer() -> int:
    return [stage["stage"] for stage in manifest([])].index("transformer")


# ---- causes, lines, history ---------------------------------------------------------------------------------------


def red(name: str, lane: str = "A", source: str = SOURCE, **more: Any) -> dict[str, Any]:
    row = {"stage": "transformer", "config": "tiny-2.0", "case": "base", "lane": lane, "name": name, "call": 0}
    return row | {"verdict": "diverged", "needed_k": 9.0, "source": source} | more


def test_one_fault_is_one_cause_however_many_rows_it_makes() -> None:
    rows = [red("velocity", "C"), *(red(f"transformer_blocks.{i}.attn1:x") for i in range(48))]
    rows += [red("transformer_blocks.0.attn1:x", "B", case="base@bfloat16"), red("transformer_blocks.0", source="a:1")]
    rows += [red("LTXModel", source="b:2"), red("proj_out", "C"), red("attn1:x", stage="denoising")]
    rows += [
        red("transformer_blocks.2.norm", "A", "e:5"),
        red("transformer_blocks.2.norm", "A", "e:5", verdict="pass", case="other"),
    ]
    rows += [red("transformer_blocks.2.norm:x", "A", "f:6")]  # not listed in the other case: passed on as it was
    rows += [red("patchify_proj", source="c:3"), red("audio", "C", stage="vocoder", source="d:4")]
    first, other, drift = causes.groups({"taps": rows})
    assert first.first["name"] == "transformer_blocks.0.attn1:x" and first.first["lane"] == "A"
    assert {how: len(group) for how, group in first.others.items()} == {
        causes.SAME: 49,
        causes.AROUND_IT: 2,
        causes.RIGHT: 2,
        causes.AFTER: 2,
    }
    assert other.rows == [rows[-2]] and not other.is_drift
    assert drift.rows == [rows[-1]] and drift.is_drift


def test_the_lines_around_a_fault_are_of_the_code_that_was_judged_and_of_nothing_else() -> None:
    found = {"code": code_digest()}
    excerpt = causes.excerpt(found, "ltx2_mlx/nn/attention.py", 10, 12)
    assert [line.number for line in excerpt.lines] == list(range(6, 17))
    assert [line.number for line in excerpt.lines if line.named] == [10, 11, 12]
    assert excerpt.lines[0].text == (ROOT / "ltx2_mlx/nn/attention.py").read_text().splitlines()[5]
    assert "changed since" in causes.excerpt({"code": "other"}, "ltx2_mlx/nn/attention.py", 1, 1).missing
    for file in ("/etc/passwd", "ltx2_mlx/../parity/cli.py", "../secret.py", "ltx2_mlx", ""):
        assert causes.excerpt(found, file, 1, 2).missing == "This source is not here."


def test_a_run_into_latest_has_a_line_in_the_history_and_the_page_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    latest = Path("reports") / "latest" / "results.json"
    latest.parent.mkdir(parents=True)
    results = run()
    history.keep(results, tmp_path / "elsewhere.json")
    assert not history.HISTORY.exists()
    for device in ("cpu", "gpu"):
        results.environment["device"] = device
        history.keep(results, latest.parent / "metal" / "results.json" if device == "gpu" else latest)
    lines = [json.loads(line) for line in history.HISTORY.read_text().splitlines()]
    assert [line["device"] for line in lines] == ["cpu", "gpu"] and len(lines[0]["commit"]) == 40
    assert lines[0]["worst"]["A"] == document(results, latest.parent)["summary"]["worst"]["A"]["needed_k"]
    with history.HISTORY.open("a") as file:
        file.write("{}\n")
    assert "gpu" in Reader(render(latest)[0].read_text()).said["history"]
    assert "line 3 of reports/history.jsonl" in capsys.readouterr().err


def test_two_runs_are_compared_on_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, results in (("before", run()), ("now", run(one_channel))):
        results.environment["device"] = "cpu" if name == "before" else "gpu"
        document(results, tmp_path)
        (tmp_path / "results.json").rename(tmp_path / f"{name}.json")
    page = tmp_path / "diff.html"
    assert main(["diff", *(str(tmp_path / f"{name}.json") for name in ("before", "now")), "--html", str(page)]) == 1
    assert str(page) in capsys.readouterr().out.replace("\n", "")
    text = page.read_text()
    assert "<td>device</td>" not in text and '<th scope="row">device</th><td>cpu</td><td>gpu</td>' in text
    assert "Regression" in text and "transformer_<wbr>blocks.<wbr>1.<wbr>attn1" in text
    Reader(text)


def test_blocks_without_room_for_all_of_their_numbers_are_numbered_evenly() -> None:
    names = [f"transformer_blocks.{block}.attn{tap}" for block in range(48) for tap in range(9)]
    ticks = list(plots._layers(["patchify_proj", "_prepare", *names, "norm_out"]))
    apart = [after - before for before, after in pairwise(ticks)]
    assert len(ticks) > 20 and max(apart) <= 2 * 9 + 2
