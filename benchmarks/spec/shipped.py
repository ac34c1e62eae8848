"""The YAML files of benchmarks: those shipped with Paceline and a user's own."""

from pathlib import Path
from typing import Any

import yaml

from paceline.benchmarks.spec.plugin import ConfigError, nearest
from paceline.home import PACKAGE


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with a duplicate key. The loader of PyYAML would keep the last value."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                continue
            key, line = (key_node.tag, key_node.value), key_node.start_mark.line + 1
            if key in lines:
                first = lines[key]
                raise yaml.YAMLError(
                    f"{key_node.value!r} stands twice, in lines {first} and {line}"
                )
            lines[key] = line
        return super().construct_mapping(node, deep)


def shipped() -> dict[str, Path]:
    """Returns the files of the benchmarks shipped with Paceline, by name."""
    return {path.stem: path for path in sorted(PACKAGE.glob("benchmarks/*.yaml"))}


def find_benchmark(name: str) -> Path:
    """Returns the file of a benchmark, given its name or its path.

    Raises:
        ConfigError: if there is no such benchmark or file.
    """
    path = shipped().get(name, Path(name))
    if path.suffix and not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    if not path.is_file():
        hint = nearest(name, list(shipped()))
        raise ConfigError(f"no benchmark {name!r}{hint}; `list` shows them all")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the content of a benchmark's file.

    Raises:
        ConfigError: if the file cannot be read or is not a mapping.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506, a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a benchmark is a mapping, see `benchmarks/criteo.yaml`")
    return raw
