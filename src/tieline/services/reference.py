"""Pod references: ``module`` or ``module:attribute``, as command lines name a pod."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tieline.errors import BadDeclaration, TielineError
from tieline.pod import Pod

__all__ = ["load_pod"]

_ATTRIBUTE = "pod"


def load_pod(reference: str) -> Pod:
    """The pod that ``module:attribute`` names; the attribute is ``pod`` unless given.

    The current directory is importable from then on. `BadDeclaration` says what was looked for and what would work.
    """
    name, colon, attribute = reference.partition(":")
    named = all(part.isidentifier() for part in name.split(".")) and not name.endswith(".py")
    if not named or (colon and not attribute.isidentifier()):
        raise BadDeclaration(f"pod reference {reference!r}: {_hint(name)}")
    module = _imported(name)
    attribute = attribute or _ATTRIBUTE
    found = getattr(module, attribute, None)
    if isinstance(found, Pod):
        return found
    there = "is missing" if found is None else f"is a {type(found).__name__}, not a Pod"
    pods = [f"{name}:{key}" for key, value in vars(module).items() if isinstance(value, Pod)]
    remedy = f"these are pods: {', '.join(pods)}" if pods else f"write `{attribute} = Pod(…)` in {module.__file__}"
    raise BadDeclaration(f"pod reference {reference!r}: {name}:{attribute} {there}; {remedy}")


def _hint(name: str) -> str:
    wanted = "write module or module:attribute, such as shop or shop.office:pod"
    if name.endswith(".py") or "/" in name:
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        return f"it is a path; {wanted}; this one may be {module}"
    return wanted


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except TielineError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise BadDeclaration(
                f"pod reference {name!r}: no module {error.name!r} in {here} or installed; "
                "run from the folder that holds it, or install it"
            ) from error
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> BadDeclaration:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return BadDeclaration(
        f"module {name} cannot be imported: {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
    )
