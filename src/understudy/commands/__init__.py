"""The verbs of the command line, one module for each group of them."""

from typing import Final

from understudy.commands.base import Verb
from understudy.commands.bench import Bench
from understudy.commands.export import Export
from understudy.commands.generate import Generate
from understudy.commands.init import Init
from understudy.commands.inspect import Config, Doctor
from understudy.commands.recipes import Recipes
from understudy.commands.runs import Collect, Evaluate, Report, Train
from understudy.commands.serve import Serve
from understudy.commands.store import (
    StoreExport,
    StoreImport,
    StoreList,
    StorePack,
    StoreRequeue,
    StoreShow,
    StoreVerify,
)
from understudy.commands.world import WorldServe

VERBS: Final[dict[str, type[Verb]]] = {
    "collect": Collect,
    "train": Train,
    "generate": Generate,
    "serve": Serve,
    "evaluate": Evaluate,
    "report": Report,
    "bench": Bench,
    "export": Export,
    "recipes": Recipes,
    "init": Init,
    "doctor": Doctor,
    "config": Config,
    "store list": StoreList,
    "store show": StoreShow,
    "store verify": StoreVerify,
    "store pack": StorePack,
    "store requeue": StoreRequeue,
    "store import": StoreImport,
    "store export": StoreExport,
    "world serve": WorldServe,
}
