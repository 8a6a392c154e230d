"""What pyproject.toml cannot say: the wheel holds the recipes of the small checkpoints, as ``parity/fixtures``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RECIPES = ("make.py", "gemma4.py", "media.py", "SHA256SUMS", "configs")


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # a checkout has them in place
        target = Path(self.build_lib) / "parity" / "fixtures"
        target.mkdir(parents=True, exist_ok=True)
        for name in RECIPES:
            source = Path(__file__).parent / "fixtures" / name
            if source.is_dir():
                shutil.copytree(source, target / name, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target / name)


setup(cmdclass={"build_py": BuildWithRecipes})
