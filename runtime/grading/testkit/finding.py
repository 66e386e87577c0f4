"""Where the tests' process finds modules, so that nothing of an agent's making is among them.

It knows neither stand-ins nor who answers for them.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Finder:
    """First on ``sys.meta_path``. From ``root`` come the ``trusted`` files alone; ``modules``, names at the top that
    the repository is known to have, become stand-ins, which ``loader`` makes; all others are looked for outside of
    ``root``, but for those in ``kept``, which are there or nowhere.
    """

    def __init__(
        self,
        loader: Any,
        root: str,
        folders: Sequence[str],
        trusted: Sequence[str],
        modules: Sequence[str],
        kept: Sequence[str],
    ) -> None:
        self._kept = frozenset(kept)
        self._loader = loader
        self._folders = list(folders)
        self._root = root
        self._trusted = {os.path.join(root, path) for path in trusted}
        self._modules = frozenset(modules)

    def find_spec(self, name: str, path: Any = None, target: object = None) -> Any:
        if name.partition(".")[0] not in self._modules:
            return outside(name, path, self._root)
        places = [os.path.join(folder, name.replace(".", os.sep)) for folder in self._folders]
        found = self._own(name, places) or self._theirs(name, places)
        if found is None and name in self._kept:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)  # and no release that is installed
        return found or outside(name, path, self._root)

    def _own(self, name: str, places: Sequence[str]) -> Any:
        """A module of the tests' own, wherever it lies: nothing of the agent's stands before it, as a helper of the
        same name in a folder that is looked through earlier would."""
        for base in places:
            for file, package in ((os.path.join(base, "__init__.py"), True), (base + ".py", False)):
                if file in self._trusted:
                    where = [base] if package else None
                    return importlib.util.spec_from_file_location(name, file, submodule_search_locations=where)
        for base in places:
            within = any(file.startswith(base + os.sep) for file in self._trusted)
            if within and name not in sys.builtin_module_names and not os.path.lexists(f"{base}/__init__.py"):
                spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [base]
                return spec
        return None

    def _theirs(self, name: str, places: Sequence[str]) -> Any:
        for base in places:
            for file, package in ((os.path.join(base, "__init__.py"), True), (base + ".py", False)):
                if os.path.lexists(file):
                    return importlib.machinery.ModuleSpec(name, self._loader, is_package=package)
            standard = name in sys.builtin_module_names or name.partition(".")[0] in sys.stdlib_module_names
            if os.path.isdir(base) and not standard:
                return importlib.machinery.ModuleSpec(name, self._loader, is_package=True)
        return None


def outside(name: str, path: Any, root: str) -> Any:
    """Where a module is found that is no part of ``root``. Raises ``ModuleNotFoundError``: nobody is asked after us."""
    for finder in (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter):
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    places = [place for place in (sys.path if path is None else path) if _is_outside(place, root)]
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return spec


def _is_outside(place: object, root: str) -> bool:
    folder = os.path.realpath(str(place) or os.curdir)
    return not f"{folder}/".startswith(f"{root}/")


class Precedence:
    """First on ``sys.meta_path`` where tests and code under test share a process: a new file of the repository does
    not stand in for a module that is there without it, nor an installed release for one of the repository's that is
    gone. ``modules``: names at the top that the repository may have; ``kept``: those that its ``folders`` have.
    """

    def __init__(self, root: str, folders: Sequence[str], modules: Sequence[str], kept: Sequence[str]) -> None:
        self._root = root
        self._folders = list(folders)
        self._modules = frozenset(modules)
        self._kept = frozenset(kept)

    def find_spec(self, name: str, path: Any = None, target: object = None) -> Any:
        if path is None and name in self._kept:
            within = (place for place in sys.path if not _is_outside(place, self._root))
            found = importlib.machinery.PathFinder.find_spec(name, list(dict.fromkeys([*within, *self._folders])))
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return found if found.loader is None else None  # a release goes before a folder without a module
        if path is not None or name in self._modules:
            return None
        try:
            return outside(name, None, self._root)
        except ModuleNotFoundError:
            return None
