"""Converts the arguments of a class between the plain values of a YAML and the constructor's types."""

import json
import re
import warnings
from typing import Any

import yaml
from jsonargparse import ArgumentParser


def to_plain(
    cls: Any, values: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Converts `values` to the plain values that a YAML would state to build `cls` with them.

    Paths, classes, enums and sets become plain values too. Plain values can be recorded, compared and
    sent to ranks that have not loaded the class yet.

    Args:
        cls: the class.
        values: arguments of the class, of the types that its constructor states.

    Returns:
        Three dictionaries by name: the plain values, which `from_plain` turns back into `values`; the
        defaults without a plain value, as text, which are left to the constructor; and the given
        arguments without a plain value, as text.
    """
    plain, left, lost = {}, {}, {}
    for name, value in values.items():
        if _is_plain(value):
            plain[name] = value
            continue
        parser = _parser(cls, {name})
        dumped = _dumped(parser, name, value)
        try:
            same = _parsed(parser, {name: dumped}).as_dict().get(name) == value
        except Exception:  # the parser may raise anything on a text that is not a value
            same = False
        if same:
            plain[name] = dumped
        elif value == parser.get_defaults().as_dict()["it"].get(name):
            left[name] = _text(value)
        else:
            lost[name] = _text(value)
    return plain, left, lost


def from_plain(cls: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """Converts plain values from `to_plain` back to the types that the constructor states."""
    if not plain:
        return {}
    parser = _parser(cls, set(plain))
    built = parser.instantiate(parser.parse_object({"it": plain}))["it"]
    return {name: built[name] for name in plain}


def _is_plain(value: Any) -> bool:
    if type(value) is str:
        return reads_as_itself(value)
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and _is_plain(part) for key, part in value.items())
    return type(value) in (int, float, bool, type(None))


def reads_as_itself(text: str) -> bool:
    """Returns whether YAML reads a text as text, and not as a number, null or another type."""
    try:
        return bool(yaml.safe_load(text) == text)
    except yaml.YAMLError:
        return False


def _parser(cls: Any, names: set[str]) -> ArgumentParser:
    """Returns a parser of the given arguments of a class."""
    whole = ArgumentParser(exit_on_error=False)
    places = whole.add_class_arguments(cls, "it", fail_untyped=False, instantiate=False)
    others = {place.split(".")[1] for place in places} - names
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "it", skip=others, fail_untyped=False, instantiate=False)
    return parser


def _parsed(parser: ArgumentParser, plain: dict[str, Any]) -> Any:
    return parser.parse_object({"it": plain})["it"]


def _dumped(parser: ArgumentParser, name: str, value: Any) -> Any:
    namespace = parser.get_defaults()
    namespace[f"it.{name}"] = _in_order(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the value may have no text, which the caller detects
        dumped = parser.dump(namespace, format="json", skip_validation=True)
    return json.loads(dumped)["it"].get(name)


def _in_order(value: Any) -> Any:
    """Converts sets to sorted lists, because the order of a set differs between processes."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, dict):
        return {key: _in_order(part) for key, part in value.items()}
    return value


def _text(value: Any) -> str:
    """Returns a name for a value. It is the same in every process."""
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
