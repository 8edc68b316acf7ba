"""Add the finished cells of a suite's run to those in the repository, and make its tables and plots again from all.

    python benchmarks/publish.py main RUN [RUN ...] --command "understudy bench ..."

RUN is a suite's folder of results, as `understudy bench` left it. Results go to benchmarks/results/bench/, into the folder
with the suite's name. A cell that the repository has is left as it is, and said, unless --replace says otherwise; a row that
was measured with other settings is taken out with --drop ROW before. Without a RUN the tables are made again from the cells:
results.json and results.csv are not kept in the repository.
"""

import argparse
from pathlib import Path
from typing import Any

from understudy.bench import results
from understudy.bench.plots import draw
from understudy.bench.suite import load_suite

HOME = Path(__file__).parent / "results" / "bench"


def place(cell: results.Result) -> tuple[str, str, int]:
    """Return a cell's setting, row and seed."""
    return cell["setting"], cell["row"], cell["seed"]


def main() -> None:
    """Merge the cells and write all that the suite's own command would write from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--command", help="the command that made all of it; else the one that is there")
    parser.add_argument("--replace", action="store_true", help="a new cell takes an old one's place")
    parser.add_argument("--drop", action="append", default=[], metavar="ROW", help="take out a row first")
    options = parser.parse_args()
    suite, home = load_suite(options.suite), HOME / options.suite.stem
    kept = {place(cell): cell for cell in results.read_cells(home) if cell["row"] not in options.drop}
    for cell in results.read(sorted(path for run in options.runs for path in run.glob("*/*/seed-*/result.json"))):
        if cell.get("error") is not None:
            print(f"{place(cell)}: failed, not taken: {cell['error']}")
        elif place(cell) not in kept or options.replace:
            kept[place(cell)] = cell
            print(f"{place(cell)}: added")
        else:
            print(f"{place(cell)}: there already, left as it is")
    heads = results.read(folder / "source.json" for folder in (home, *options.runs))
    head: dict[str, Any] = {key: found[key] for found in heads[::-1] for key in ("command", "hardware")}
    left_out = heads[-1]["left_out"] if heads else []
    if options.command:
        head["command"] = options.command
    seeds = sorted({cell["seed"] for cell in kept.values()})
    cells = [cell for cell in kept.values() if cell["row"] in suite.rows]
    home.mkdir(parents=True, exist_ok=True)
    suite = suite.model_copy(update={"out": home, "seeds": seeds})
    print(results.write(suite, cells, left_out, head))
    draw(home)


if __name__ == "__main__":
    main()
