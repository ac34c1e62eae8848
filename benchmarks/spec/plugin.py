"""The classes that a benchmark names: of a module, or of a person's own Python file."""

import difflib
import hashlib
import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from paceline.benchmarks.spec.arguments import from_plain, to_plain


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
        arguments: as a YAML states them, plain values only.
        source: the text of the file, of a class in a file. It is what every rank and a later rerun
            run, and part of the trial's identity, whatever becomes of the file.
        defaults: the text of those defaults that no YAML could state; the constructor fills them in.
    """

    name: str
    arguments: dict[str, Any]
    source: str | None = None
    defaults: dict[str, str] = field(default_factory=dict)

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
            return cls(f"{path}:{class_name}", {}, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read {file}: {reason}") from error

    def __str__(self) -> str:
        return self.name if self.source is None else Path(self.name).name

    @property
    def place(self) -> str:
        """The module, or the path of the file."""
        return self.name.rpartition(":")[0]

    @property
    def cls(self) -> Any:
        """Raises `ConfigError` where there is no such class."""
        name = self.name.rpartition(":")[2]
        if self.source is not None:
            classes = self._classes(self.source)
            if name not in classes:
                near = nearest(name, classes)
                raise ConfigError(f"{Path(self.place).name} has no class {name!r}{near}")
            return classes[name]
        try:
            return getattr(import_module(self.place), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"class {self.name!r} cannot be loaded: {error}") from error

    def beside(self, base: type) -> "Plugin":
        """The one class in the file of this one that is derived from `base`.

        Raises:
            ConfigError: there is none, or there are several.
        """
        classes = self._classes(self.source or "")
        found = [name for name, cls in classes.items() if issubclass(cls, base)]
        about = f"{Path(self.place).name} holds"
        if not found:
            raise ConfigError(
                f"{about} no {base.__name__}; put a class derived from it into the file"
            )
        if len(found) > 1:
            raise ConfigError(
                f"{about} {len(found)} classes derived from {base.__name__}, {', '.join(found)};"
                " leave one, or name one in a YAML as workload.data.class"
            )
        return Plugin(f"{self.place}:{found[0]}", {}, self.source)

    def given(self, values: dict[str, Any], place: str) -> "Plugin":
        """The same class with arguments of the types that its constructor states.

        Raises:
            ConfigError: an argument cannot be recorded; `place` says where it stands.
        """
        plain, defaults, lost = to_plain(self.cls, values)
        for name, text in lost.items():
            raise ConfigError(
                f"{place}.{name}: {text} cannot be recorded; give a number, a text, a list of them, or"
                " the name of a class or function as `module.name`"
            )
        return replace(self, arguments=plain, defaults=defaults)

    def build(self, **more: Any) -> Any:
        """The object; `more` are arguments that no YAML states."""
        return self.cls(**from_plain(self.cls, self.arguments), **more)

    def line_of(self, error: BaseException) -> str:
        """` (line N)`, the innermost line of this plugin's file that `error` went through."""
        lines = [f.lineno for f in extract_tb(error.__traceback__) if f.filename == self.place]
        return f" (line {lines[-1]})" if lines else ""

    def _classes(self, source: str) -> dict[str, type]:
        """The classes that the file defines."""
        try:
            module = _module(self.place, source)
        except Exception as error:  # whatever a person's file may raise
            file, where = Path(self.place).name, self.line_of(error)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(f"{file} cannot be loaded: {reason}{where}") from error
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
