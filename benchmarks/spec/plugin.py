"""The classes that a benchmark names. They come from a module or from a user's own Python file."""

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
    """A benchmark asks for something that does not exist or does not fit. The message says where."""


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a message about an unknown name: the closest of `names`, if one is close."""
    close = difflib.get_close_matches(str(name), sorted(names), n=1, cutoff=0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


@dataclass(frozen=True)
class Plugin:
    """A class and the arguments to build it with.

    Attributes:
        name: `module:Class` or `path/to/file.py:Class`.
        arguments: the arguments as a YAML states them, as plain values only.
        source: the text of the file if the class is in a file, else None. Every rank and every later
            rerun runs this text, even if the file has changed. It is part of the trial's identity.
        defaults: the defaults that no YAML can state, as text. The constructor fills them in.
    """

    name: str
    arguments: dict[str, Any]
    source: str | None = None
    defaults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str) -> "Plugin":
        """Returns the class of that name, without arguments. If it is in a file, the file is read now.

        Raises:
            ConfigError: if the file cannot be read, or if the name has a file but no class.
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
        """The name of the module or the path of the file."""
        return self.name.rpartition(":")[0]

    @property
    def cls(self) -> Any:
        """The class itself.

        Raises:
            ConfigError: if there is no such class.
        """
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
        """Returns the class in the same file that is derived from `base`.

        Raises:
            ConfigError: if there is no such class, or if there are several.
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
        """Returns the same class with arguments. They have the types that its constructor states.

        Args:
            values: the arguments.
            place: the section of the YAML that holds the arguments, for the message of an error.

        Raises:
            ConfigError: if an argument cannot be recorded.
        """
        plain, defaults, lost = to_plain(self.cls, values)
        for name, text in lost.items():
            raise ConfigError(
                f"{place}.{name}: {text} cannot be recorded; give a number, a text, a list of them, or"
                " the name of a class or function as `module.name`"
            )
        return replace(self, arguments=plain, defaults=defaults)

    def build(self, **more: Any) -> Any:
        """Builds the object. `more` are arguments that no YAML states."""
        return self.cls(**from_plain(self.cls, self.arguments), **more)

    def line_of(self, error: BaseException) -> str:
        """Returns ` (line N)`, where N is the innermost line of this file in the traceback of `error`."""
        lines = [f.lineno for f in extract_tb(error.__traceback__) if f.filename == self.place]
        return f" (line {lines[-1]})" if lines else ""

    def _classes(self, source: str) -> dict[str, type]:
        """Returns the classes that the file defines, by name."""
        try:
            module = _module(self.place, source)
        except Exception as error:  # a user's file may raise anything
            file, where = Path(self.place).name, self.line_of(error)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            hint, folder = "", Path(self.place).parent
            if isinstance(error, ModuleNotFoundError) and (folder / f"{error.name}.py").exists():
                hint = f"; {error.name}.py lies beside it: set PYTHONPATH={folder}"
            raise ConfigError(f"{file} cannot be loaded: {reason}{where}{hint}") from error
        return {
            name: cls
            for name, cls in vars(module).items()
            if inspect.isclass(cls) and cls.__module__ == module.__name__
        }


@cache
def _module(path: str, source: str) -> ModuleType:
    # The module needs a name that no other module has, because the file may be called `torch.py`.
    content = hashlib.sha256(source.encode()).hexdigest()
    module = ModuleType(f"own_{Path(path).stem}_{content[:16]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # typing and dataclasses look the module up here
    exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102, the user's own file
    return module
