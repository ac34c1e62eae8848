"""The classes that a benchmark names: of a module, or of a person's own Python file."""

import difflib
import hashlib
import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any


class ConfigError(ValueError):
    """A benchmark asks for something that does not exist or does not fit; the message says where."""


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown name: which of `names` may have been meant."""
    close = difflib.get_close_matches(str(name), sorted(names), n=1, cutoff=0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


@dataclass(frozen=True)
class Plugin:
    """A class named as `module:Class` or `path/to/file.py:Class`, and the arguments to build it with.

    Attributes:
        source: the text of the file, of a class in a file. It is what every rank and a later rerun
            run, and part of the trial's identity, whatever becomes of the file.
    """

    name: str
    arguments: dict[str, Any]
    source: str | None = None

    @classmethod
    def named(cls, name: str) -> "Plugin":
        """The class of that name, without arguments; a file is read now.

        Raises:
            ConfigError: the file cannot be read, or no class of it is named.
        """
        file, _, class_name = name.rpartition(":")
        if name.endswith(".py"):
            raise ConfigError(f"{name} names no class; write {name}:CLASS")
        if not file.endswith(".py"):
            return cls(name, {})
        path = Path(file).expanduser().resolve()
        try:
            return cls(f"{path}:{class_name}", {}, path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read {file}: {reason}") from error

    def __str__(self) -> str:
        return self.name if self.source is None else Path(self.name).name

    @property
    def cls(self) -> Any:
        """Raises `ConfigError` where there is no such class."""
        place, _, name = self.name.rpartition(":")
        if self.source is not None:
            classes = _classes(place, self.source)
            if name not in classes:
                near = nearest(name, classes)
                raise ConfigError(f"{Path(place).name} has no class {name!r}{near}")
            return classes[name]
        try:
            return getattr(import_module(place), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"class {self.name!r} cannot be loaded: {error}") from error

    def beside(self, base: type, called: str) -> "Plugin":
        """The one class in the file of this one that is derived from `base`.

        Raises:
            ConfigError: there is none, or there are several.
        """
        place, _, _ = self.name.rpartition(":")
        file = Path(place).name
        found = [
            n for n, cls in _classes(place, self.source or "").items() if issubclass(cls, base)
        ]
        if not found:
            raise ConfigError(
                f"{file} holds no {called}; put a class derived from it into the file"
            )
        if len(found) > 1:
            raise ConfigError(
                f"{file} holds {len(found)} classes derived from {called}, {', '.join(found)}; leave"
                " one, or name one in a YAML as workload.data.class"
            )
        return Plugin(f"{place}:{found[0]}", {}, self.source)

    def build(self, **more: Any) -> Any:
        return self.cls(**self.arguments, **more)

    def line_of(self, error: BaseException) -> str:
        """` (line N)`, the innermost line of this plugin's file that `error` went through."""
        file = self.name.rpartition(":")[0]
        lines = [f.lineno for f in extract_tb(error.__traceback__) if f.filename == file]
        return f" (line {lines[-1]})" if lines else ""


def _classes(path: str, source: str) -> dict[str, type]:
    """The classes that the file at `path`, of that text, defines."""
    try:
        module = _module(path, source)
    except Exception as error:  # whatever a person's file may raise
        where = Plugin(f"{path}:", {}).line_of(error)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{Path(path).name} cannot be loaded: {reason}{where}") from error
    return {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and cls.__module__ == module.__name__
    }


@cache
def _module(path: str, source: str) -> ModuleType:
    # Under a name that no other module has: the file may be called `torch.py`.
    content = hashlib.sha256(source.encode()).hexdigest()
    module = ModuleType(f"own_{Path(path).stem}_{content[:16]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # where typing and dataclasses look it up
    exec(compile(source, path, "exec"), module.__dict__)
    return module
