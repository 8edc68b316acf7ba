"""Collecting under faults and kills, from the embedded world's own server over real sockets.

    python benchmarks/collection.py faults --clips 600     # 32 at a time until every clip is there
    python benchmarks/collection.py kills --kills 50       # kill -9 at random moments, then let it finish
    python benchmarks/collection.py overhead --clips 64 --delay 30

Prints one JSON object: what was injected, what the server made, what the store and the ledger hold.
"""

import argparse
import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from understudy.collection.collect import Job, Policy, collect
from understudy.collection.ledger import Ledger
from understudy.collection.store import ClipStore
from understudy.teachers.base import ClipParams, Terms
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape
from understudy.teachers.world.server import World, serve
from understudy.teachers.world.teacher import WorldTeacher

TINY = ClipParams(frames=4, fps=8.0, width=16, height=16)
FAST = Policy(
    concurrency=32, poll=0.05, first_wait=0.02, longest_wait=0.2, tries=20, downloads=8, attempts=8, failures=50
)


def jobs(count: int) -> list[Job]:
    """Return ``count`` jobs of one prompt, told apart by their seeds."""
    return [Job("a small red ball is dropped", seed) for seed in range(count)]


def ask(port: int, store: Path, count: int, policy: Policy = FAST) -> None:
    """Collect."""
    web = Web(f"http://127.0.0.1:{port}")
    shape = load_shape("openai-videos", {}, {})
    teacher = WireTeacher(shape, web, "world", "w", Terms("yes", "embedded world"), 0.0, idempotent=True)
    collect(teacher, jobs(count), ClipStore(store, create=True), TINY, lambda report: None, policy)


def accounts(world: World, path: Path, count: int) -> dict[str, object]:
    """Return whether the server, the store and the ledger agree."""
    store = ClipStore(path)
    with Ledger(path) as ledger:
        states = Counter(row.state for row in ledger.jobs())
        ended = sqlite3.connect(ledger.path).execute("SELECT handle, outcome FROM submissions").fetchall()
    gone = [h for h, outcome in ended if outcome in ("expired", "failed") and h in world.jobs]
    made = Counter(job.request["seed"] for job in world.jobs.values())
    again = Counter(job.request["seed"] for job in world.jobs.values() if job.forgotten or job.failed)
    return {
        "clips_wanted": count,
        "clips_in_store": sum(record.status == "done" for record in store.records()),
        "problems_of_the_store": len(store.verify()),
        "ledger": dict(states),
        "faults_injected": sum(world.injected.values()),
        "faults": dict(sorted(world.injected.items())),
        "jobs_made": len(world.jobs),
        "jobs_the_server_lost_or_failed": sum(again.values()),
        "submission_keys_used_for_two_jobs": len(world.jobs) - len({job.key for job in world.jobs.values()}),
        "good_jobs_given_up_because_their_clip_could_not_be_fetched": sum(
            not (world.jobs[h].failed or world.jobs[h].forgotten) for h in gone
        ),
        "clips_with_two_good_jobs": sum(made[seed] - again[seed] > 1 for seed in made),
    }


def main() -> None:
    """Run one of the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=("faults", "kills", "overhead", "child"))
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--store", type=Path)
    args = parser.parse_args()
    if args.trial == "child":
        ask(args.port, args.store, args.clips)
        return
    share = 0.0 if args.trial == "overhead" else args.share
    world = World(WorldTeacher(size=16, frames=4), args.delay, share, 0)
    server = serve(world)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        path, begun = Path(folder) / "store", time.monotonic()
        child = [sys.executable, __file__, "child", "--port", str(server.server_port), "--store", str(path)]
        child += ["--clips", str(args.clips)]
        if args.trial == "kills":
            moment, done = random.Random(0), 0
            for _ in range(args.kills):
                process = subprocess.Popen(child)
                try:
                    process.wait(moment.uniform(0.8, 2.2))
                    done += 1
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            print(f"{args.kills - done} kills, {done} collections had ended before", file=sys.stderr)
        if args.trial == "overhead":
            ask(server.server_port, path, args.clips, Policy(concurrency=32, poll=0.25))
        else:
            subprocess.run(child, check=True)
        seconds = time.monotonic() - begun
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        ideal = -(-args.clips // 32) * args.delay
        print(
            json.dumps(
                {
                    "trial": args.trial,
                    "seconds": round(seconds, 1),
                    "overhead": round(seconds / ideal - 1, 4) if ideal else None,
                    "collector_peak_mib": round(used.ru_maxrss / 1024),
                    **accounts(world, path, args.clips),
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
