"""The verbs of the command line, one module for each group of them."""

from typing import Final

from understudy.commands.base import Verb
from understudy.commands.generate import Generate
from understudy.commands.inspect import Config, Doctor
from understudy.commands.runs import Collect, Evaluate, Report, Train
from understudy.commands.serve import Serve

VERBS: Final[dict[str, type[Verb]]] = {
    "collect": Collect,
    "train": Train,
    "generate": Generate,
    "serve": Serve,
    "evaluate": Evaluate,
    "report": Report,
    "doctor": Doctor,
    "config": Config,
}
