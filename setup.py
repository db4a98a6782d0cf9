"""Build step of the wheel: the recipes of `recipes/` become files of the package; all else is in `pyproject.toml`."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copy `recipes/` into the built package; `timechat recipes` of an editable install reads the checkout."""

    def run(self):
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "timechat" / "recipes"
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((Path(__file__).parent / "recipes").glob("*")):
            self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildWithRecipes})
