"""`detr VERB …`, which is the same as `python -m detr VERB …`."""

import importlib
import pkgutil
import sys
from types import ModuleType

from detr import commands
from detr.config.suggest import did_you_mean
from detr.entry import user_errors
from detr.errors import UserError


def main() -> None:
    """Run the verb that the command line begins with; without one, list them all."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        with user_errors():
            print(usage())
        return
    verb = arguments[0]
    with user_errors():
        if verb not in verbs():
            hint = did_you_mean(verb, verbs()) or f"; there are {', '.join(verbs())}"
            raise UserError(f"{verb}: there is no such verb{hint}")
    sys.argv = [f"detr {verb}", *arguments[1:]]
    module(verb).main()


def verbs() -> list[str]:
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(commands.__path__))


def module(verb: str) -> ModuleType:
    return importlib.import_module(f"{commands.__name__}.{verb.replace('-', '_')}")


def usage() -> str:
    """Return one line for each verb: the first of its docstring."""
    documents = {verb: module(verb).__doc__ or "" for verb in verbs()}
    width = max(map(len, documents))
    lines = [f"  {verb:<{width}} {document.strip().splitlines()[0]}" for verb, document in documents.items()]
    return "\n".join(["usage: detr VERB [ARGUMENTS]", "", *lines, "", "`detr VERB --help` says what each takes."])


if __name__ == "__main__":
    main()
