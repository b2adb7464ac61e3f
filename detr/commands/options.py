"""List what can be chosen and set: groups, their options, and every key of an option.

detr options                            # the groups of conf/
detr options transformer                # the options of a group, a line each
detr options transformer=deformable     # every key: type, default, what it means
detr options --markdown                 # all of it as a page: docs/options.md
detr options --config-dir conf          # with your own options, as train.py has them; each command takes it
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union

from omegaconf import OmegaConf

from detr.config.annotations import parameters, show
from detr.config.build import DIRECTIVES, locate
from detr.config.check import schema
from detr.config.compose import CONF, groups, load, offered
from detr.config.own import SEARCHPATH, config_dir, own_folders
from detr.config.references import is_reference, leaves
from detr.config.suggest import did_you_mean
from detr.entry import user_errors
from detr.errors import UserError

Folders = Sequence[Path]
TITLE = "Options"
INHERITS = r"^defaults: \[(\w+)\]"
SIMPLE = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}


@dataclass(frozen=True)
class Setting:
    """Holds one key of an option."""

    key: str  # as on the command line
    kind: str  # its type, or the values that are allowed
    default: str
    words: str  # what it means


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with user_errors():
        if any(each in ("-h", "--help") for each in given):
            print(__doc__)
            return
        read = _parsed(given)
        places = [word for word in read.asked if word.startswith(f"{SEARCHPATH}=")]
        asked = [word for word in read.asked if word not in places]
        folders = own_folders("train", config_dir(read.config_dir), places)
        if read.markdown and not asked:
            print(page(folders), end="")
        elif len(asked) > 1 or read.markdown:
            raise UserError(f"expected at most one group or option, got {' '.join(given)}")
        else:
            print("\n".join(answer(asked[0] if asked else None, folders)))


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("asked", nargs="*")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--markdown", action="store_true")
    try:
        read, unknown = parser.parse_known_intermixed_args(given)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if unknown:
        flags = ["--config-dir", "--markdown", "--help"]
        raise UserError(f"{unknown[0]}: there is no such flag{did_you_mean(unknown[0], flags)}")
    return read


def answer(asked: str | None, folders: Folders = ()) -> Iterator[str]:
    """Yield the lines that answer a question.

    Args:
        asked: `group`, `group=option`, or None for all groups.
        folders: of configs, beside conf/.

    Raises:
        UserError: there is no such group or option.
    """
    known = groups(*folders)
    if asked is None:
        width = max(map(len, known))
        yield from (f"{group:<{width}}  {', '.join(options)}" for group, options in known.items())
        return
    group, chosen, option = asked.partition("=")
    if group not in known:
        raise UserError(f"{group}: there is no such group{did_you_mean(group, known) or '; `detr options` lists them'}")
    if not chosen:
        width = max(map(len, known[group]))
        yield from (f"{option:<{width}}  {first_sentence(describe(group, option, folders))}" for option in known[group])
        return
    if option not in known[group]:
        hint = did_you_mean(option, known[group]) or f"; there are {', '.join(known[group])}"
        raise UserError(f"{asked}: there is no such option{hint}")
    yield from (f"{asked}", *(f"  {line}" for line in describe(group, option, folders).splitlines()))
    for setting in settings(group, option, folders):
        yield ""
        yield f"{setting.key}={setting.default}" + (f"   {setting.kind}" if setting.kind else "")
        if setting.words:
            yield f"    {setting.words}"


def page(folders: Folders = ()) -> str:
    """Return docs/options.md: every group, every option, every key."""
    lines = [
        f"# {TITLE}",
        "",
        "Written by `detr options --markdown` from the constructors' signatures and docstrings and from conf/. The "
        "same is shown by `detr options`, `detr options GROUP` and `detr options GROUP=OPTION`.",
        "",
        "## Keys of train.py",
        "",
        *_table(_primary("train")),
    ]
    for group, options in groups(*folders).items():
        lines += ["", f"## {group}"]
        for option in options:
            lines += ["", f"### {group}={option}", "", *_paragraphs(describe(group, option, folders))]
            rows = settings(group, option, folders)
            lines += ["", *_table(rows)] if rows else []
    return "\n".join(lines) + "\n"


def describe(group: str, option: str, folders: Folders = ()) -> str:
    """Return what an option is, by the head of its file; without one, by its constructor or by what it is made from."""
    lines = _text(group, option, folders).splitlines()
    head = [line[1:].removeprefix(" ") for line in lines if line.startswith("#") and "@package" not in line]
    if head:
        return "\n".join(head)
    node = _plain(OmegaConf.create("\n".join(lines)))
    if "_target_" in node:
        return first_sentence(inspect.getdoc(locate(node["_target_"], group)) or "")
    base = re.search(INHERITS, "\n".join(lines), re.MULTILINE)
    return describe(group, base[1], folders) if base else ""


def settings(group: str, option: str, folders: Folders = ()) -> list[Setting]:
    """Return every key of an option; of one that sets keys all over the config, those that it sets."""
    file = _text(group, option, folders)
    path = tuple(group.split("/"))
    if group.startswith("hydra/"):
        return _settled(_walk(_plain(OmegaConf.create(file)), path, _comments(file, path)))
    if re.match(r"# @package _global_", file):
        keys = (path for path, _ in leaves(_plain(OmegaConf.create(file))))
        own = {".".join(name for name in path if isinstance(name, str)) for path in keys}
        loaded = load("train", [f"{group}={option}"], folders)
        comments = _comments((CONF / "train.yaml").read_text(encoding="utf-8"), ()) | _comments(file, ())
        for other, chosen in loaded.hydra.runtime.choices.items():
            if (
                other != group and offered(other) and not other.startswith("hydra/")
            ):  # what the keys' own options say of them
                comments = _comments_of(other, chosen, folders) | comments
        whole = _walk(_plain(loaded), (), comments)
        return [each for each in _settled(whole) if each.key in own]
    comments = _comments_of(group, option, folders)
    node = _plain(load(None, [f"+{group}={option}"], folders))
    for name in path:
        node = node[name]
    return _settled(_walk(node, path, comments))


def _comments_of(group: str, option: str, folders: Folders) -> dict[tuple[str, ...], str]:
    """What an option's file and those that it is made from say of each key."""
    file, path = _text(group, option, folders), tuple(group.split("/"))
    comments = _comments(file, path)
    while base := re.search(INHERITS, file, re.MULTILINE):
        file = _text(group, base[1], folders)
        comments = _comments(file, path) | comments
    return comments


def _walk(
    node: dict[str, Any], path: tuple[str, ...], comments: Mapping[tuple[str, ...], str], about: str = ""
) -> Iterator[Setting]:
    """The settings of a node and of those inside it; `about`: what is said of a mapping counts for what is in it."""
    constructor = locate(str(node["_target_"]), ".".join(path)) if "_target_" in node else None
    arguments, words = ({}, {}) if constructor is None else (parameters(constructor) or {}, documented(constructor))
    for key, value in node.items():
        here = (*path, str(key))
        if key in (*DIRECTIVES, "defaults") or here == ("hydra",):
            continue
        meaning = words.get(str(key)) or comments.get(here, about)
        if isinstance(value, dict) and value:
            yield from _walk(value, here, comments, "" if "_target_" in value else meaning)
            continue
        typed = schema().get(".".join(here))
        annotation = typed if typed is not None or key not in arguments else arguments[key].annotation
        yield Setting(".".join(here), kind_of(annotation), value if is_reference(value) else show(value), meaning)


def _settled(found: Iterable[Setting]) -> list[Setting]:
    """What is said of a key counts for the one that it refers to, and the other way round."""
    rows = list(found)
    others = {row.default.strip("${}"): row for row in reversed(rows) if is_reference(row.default)}
    by_key = {row.key: row for row in rows}
    settled = []
    for row in rows:
        other = others.get(row.key) or by_key.get(row.default.strip("${}"))
        settled.append(replace(row, kind=row.kind or other.kind, words=row.words or other.words) if other else row)
    return settled


def documented(target: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstrings of a constructor and its bases say of each argument, under `Args:`."""
    found: dict[str, str] = {}
    for each in reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]:
        for source in (each, vars(each).get("__init__")) if inspect.isclass(each) else (each,):
            found |= _arguments(inspect.cleandoc(getattr(source, "__doc__", None) or ""))
    return {name: _borrowed(name, words) for name, words in found.items()}


def _borrowed(name: str, words: str) -> str:
    """What the class says that a docstring refers to: `as in `TransformerDecoder`.`"""
    reference = re.match(r"as in `(\w+)`\.?\s*(.*)", words)
    if not reference:
        return words
    modules = [vars(module) for module in list(sys.modules.values()) if module.__name__.startswith("detr.")]
    other = next((module[reference[1]] for module in modules if reference[1] in module), None)
    return f"{documented(other).get(name, '')} {reference[2]}".strip() if other else words


def kind_of(annotation: Any) -> str:
    """Return a type as YAML has it: `int or null`, `relu | gelu`, `list of float`, `part`."""
    if annotation in (None, Any, inspect.Parameter.empty):
        return ""
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is typing.Annotated:
        return kind_of(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(kind_of, arguments)))
    if origin in (list, tuple) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        inner = dict.fromkeys(kind_of(each) for each in arguments if each is not Ellipsis)
        return f"list of {' or '.join(inner)}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"mapping of {kind_of(arguments[-1]) or 'anything'}"
    return "part"


def first_sentence(text: str) -> str:
    """Return the text up to its first full stop, as one line."""
    return re.split(r"(?<=[.!?])(?<!al\.)\s", " ".join(text.split()), maxsplit=1)[0]


def _primary(name: str) -> list[Setting]:
    """The keys that a primary config has of its own."""
    file = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    return list(_walk(_plain(OmegaConf.create(file)), (), _comments(file, ())))


def _plain(config: Any) -> dict[str, Any]:
    """With references as they stand."""
    container: Any = OmegaConf.to_container(config, resolve=False)
    return container or {}


def _text(group: str, option: str, folders: Folders) -> str:
    files = (folder / group / f"{option}.yaml" for folder in (CONF, *folders))
    return next(file for file in files if file.is_file()).read_text(encoding="utf-8")


def _arguments(doc: str) -> dict[str, str]:
    """Name → words, of the block `Args:` in a docstring."""
    block = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in block[1].splitlines() if block else ():
        entry = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".rstrip() for name in names}
    return found


def _comments(file: str, above: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Path → the comment behind a key of a YAML file whose content belongs under the path `above`."""
    found: dict[tuple[str, ...], str] = {}
    path: list[tuple[int, str]] = []
    for line in file.splitlines():
        entry = re.match(r"( *)([\w.$|\\()\[\]-]+):(.*)", line)
        if not entry:
            continue
        indent = len(entry[1])
        path = [*(each for each in path if each[0] < indent), (indent, entry[2])]
        comment = re.search(r"(?:^|\s)#\s*(.*)", entry[3])
        if comment:
            found[(*above, *(name for _, name in path))] = comment[1]
    return found


def _paragraphs(text: str) -> Iterator[str]:
    """As Markdown: lines that are indented are code."""
    code = False
    for line in text.splitlines():
        if line.startswith(" ") != code:
            code = not code
            yield "```" if code or line else ""
        yield line.strip()
    yield from ["```"] if code else []


def _table(rows: Sequence[Setting]) -> list[str]:
    """As Markdown."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    lines = ["| key | default | type or values | |", "|---|---|---|---|"]
    return lines + [f"| `{row.key}` | `{cell(row.default)}` | {cell(row.kind)} | {cell(row.words)} |" for row in rows]
