"""``parity list``: what there is to run."""

from __future__ import annotations

import argparse

from ..declare.stages import pipelines, stages
from ..sides.port import known


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    commands.add_parser("list", help="stages, configs, cases and taps").set_defaults(handler=_list)


def _list(args: argparse.Namespace) -> int:
    from ..sides.fixtures import ensure_fixtures
    from ..sides.loading import read, tiny

    ensure_fixtures()
    for stage in stages().values():
        print(f"{stage.name}  ({len(stage.functions)} function taps; every leaf module)")
        for config in stage.configs:
            cases = stage.cases(read(tiny(config, stage.folder)).config if stage.component else {})
            print(f"  {config:<24}{', '.join(cases)}")
    for pipeline in pipelines().values():
        print(f"{pipeline.name}  ({', '.join(dict.fromkeys(watch.name for watch in pipeline.watches))})")
        print(f"  {', '.join(pipeline.configs)}")
    print(f"sides  (--reference, --subject)\n  {', '.join(known())}, or a Python file")
    return 0
