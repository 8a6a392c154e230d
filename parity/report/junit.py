"""The run as JUnit XML: a suite for each stage and config, a test case for each lane, coverage and pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from ..judge.files import write_whole
from .digest import Cell, Document, Record, is_whole, views

LISTED = 20  # failing tensors that a failure's text names
# Characters that XML 1.0 has no way to write.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(document: Document, path: Path) -> Path:
    write_whole(path, ElementTree.tostring(tree(document), encoding="utf-8", xml_declaration=True))
    return path


def tree(document: Document) -> ElementTree.Element:
    root = ElementTree.Element("testsuites", name="parity")
    for stage in views(document):
        for cell in stage.cells:
            _suite(root, f"{cell.stage} {cell.config}", [*_lanes(cell), *_coverage(cell)])
    _suite(
        root,
        "manifest",
        [
            *((tap, "no case reaches this declared tap", "missing", "") for tap in document["summary"]["unseen"]),
            *((part, "nothing was judged", "missing", "") for part in document["summary"]["silent"]),
        ],
    )
    _suite(root, "pipelines", [_pipeline(row) for row in document.get("pipelines") or []])
    if (code := document["summary"]["exit_code"]) and not any(int(suite.get("failures", 0)) for suite in root):
        _suite(root, "run", [("run", f"its exit code is {code}", "missing", "")])
    for key in ("tests", "failures"):
        root.set(key, str(sum(int(suite.get(key, 0)) for suite in root)))
    return root


def no_results(why: str) -> str:
    """The page of a run that did not come to its end: one test, which failed."""
    root = ElementTree.Element("testsuites", name="parity", tests="1", failures="1")
    _suite(root, "run", [("run", why, "missing", "")])
    return ElementTree.tostring(root, encoding="unicode") + "\n"


Case = tuple[str, str, str, str]  # its name; for a failure its message, its type and its text


def _suite(root: ElementTree.Element, name: str, cases: list[Case]) -> None:
    if not cases:
        return
    failures = sum(1 for _, message, _, _ in cases if message)
    suite = ElementTree.SubElement(root, "testsuite", name=_legal(name), tests=str(len(cases)), failures=str(failures))
    for case, message, kind, text in cases:
        element = ElementTree.SubElement(
            suite, "testcase", classname=_legal(f"parity.{name.replace(' ', '.')}"), name=_legal(case)
        )
        if message:
            ElementTree.SubElement(element, "failure", message=_legal(message), type=kind).text = _legal(text)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("�", text)


def _lanes(cell: Cell) -> list[Case]:
    cases = []
    for lane in sorted({row["lane"] for row in cell.rows}):
        bad = [row for row in cell.failures if row["lane"] == lane]
        lines = [
            f"{row['case']} {row['name']}: {row['verdict']}: {row['why']} {row.get('source') or ''}" for row in bad
        ]
        more = [f"and {len(bad) - LISTED} more"] if len(bad) > LISTED else []
        name = f"lane {lane}"
        cases.append(
            (name, _message(bad[0]), bad[0]["verdict"], "\n".join(lines[:LISTED] + more)) if bad else (name, "", "", "")
        )
    return cases


def _message(row: Record) -> str:
    return f"{row['name']} (case {row['case']}): {row['verdict']}: {row['why']}"


def _coverage(cell: Cell) -> list[Case]:
    c = cell.coverage
    if not c:
        return []
    said = f"{c['leaves_compared']} of {c['leaves']} leaf modules, "
    said += f"{c['parameters_moving']} of {c['parameters']} parameters"
    return [("coverage", "" if is_whole(c) else said, "missing", "\n".join(c["uncovered"]))]


def _pipeline(row: Record) -> Case:
    name = " ".join(str(row[key]) for key in ("pipeline", "config", "dtype") if row.get(key))
    verdict = row.get("verdict", "pass")
    return (name, "" if verdict == "pass" else f"{verdict}: {row.get('why') or ''}", verdict, "")
