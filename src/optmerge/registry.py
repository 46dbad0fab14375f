"""One registry for what files and plug-ins add: methods, architectures, tasks, lines, towers, importers.

A package of declarations is imported file by file, folders and files with an underscore left out, and every
declaration makes itself known by `Registry.add`. Other distributions add theirs through an entry point in the
registry's group that names a module. Nothing is kept in a list by hand.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from threading import RLock
from types import ModuleType
from typing import Generic, TypeVar

from optmerge.errors import InputError, did_you_mean

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """Items by name, found when the first one is asked for; safe to use from several threads.

    Args:
        what: one item in a message, such as `method`.
        package: dotted name of the package whose files declare items, or names of several.
        group: entry-point group of plug-ins.
        error: raised for unknown names, duplicates and broken plug-ins.
        collect: (module) → (name, item) pairs that the module declares as constants, for packages
            whose files don't call `add`.
    """

    def __init__(
        self,
        what: str,
        package: str | tuple[str, ...],
        group: str,
        *,
        error: type[InputError] = InputError,
        collect: Callable[[ModuleType], Iterable[tuple[str, Item]]] | None = None,
    ) -> None:
        self._what, self._package, self._group = what, package, group
        self._error, self._collect = error, collect
        self._items: dict[str, Item] = {}
        self._owners: dict[str, str] = {}
        self._lock = RLock()
        self._loaded = False

    def add(self, name: str, item: Item, owner: str) -> None:
        """Makes an item known.

        Args:
            name: of the item.
            item: replaces an earlier one of the same name and owner, as when a module is reloaded.
            owner: name of the module that declares it.

        Raises:
            InputError: another module has declared that name.
        """
        known = self._owners.get(name, owner)
        if known != owner:
            raise self._error(
                f"there already is a {self._what} {name!r}",
                where=f"module {owner}",
                got=f"one from {known}",
                hint="rename one of them",
            )
        self._items[name], self._owners[name] = item, owner

    def all(self) -> Mapping[str, Item]:
        """Every item by name, in alphabetical order.

        Raises:
            InputError: a plug-in can't be loaded.
        """
        self._load()
        return dict(sorted(self._items.items()))

    def get(self, name: str) -> Item:
        """The item of that name.

        Raises:
            InputError: there is none; with the closest name.
        """
        self._load()
        if name not in self._items:
            hint = did_you_mean(name, sorted(self._items))
            raise self._error(f"unknown {self._what} {name!r}", where=self._what, hint=hint)
        return self._items[name]

    def owner(self, name: str) -> str:
        """Name of the module that declared an item."""
        self._load()
        return self._owners[name]

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._loaded = True  # first, since declarations may ask for others while they are imported
            try:
                self._import_files()
                self._import_plugins()
            except BaseException:
                self._loaded = False
                raise

    def _import_files(self) -> None:
        for package in (self._package,) if isinstance(self._package, str) else self._package:
            for module in pkgutil.iter_modules(import_module(package).__path__):
                if not module.ispkg and not module.name.startswith("_"):
                    self._take(import_module(f"{package}.{module.name}"))

    def _import_plugins(self) -> None:
        for plugin in entry_points(group=self._group):
            try:
                self._take(plugin.load())
            except InputError:
                raise
            except Exception as error:
                raise self._error(
                    f"the plug-in {plugin.name!r} can't be loaded",
                    where=f"entry point {plugin.value!r} of {self._group}",
                    got=f"{type(error).__name__}: {error}",
                    hint="reinstall or uninstall the package that declares it",
                ) from error

    def _take(self, module: ModuleType) -> None:
        for name, item in self._collect(module) if self._collect else ():
            self.add(name, item, module.__name__)
