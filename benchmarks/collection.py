"""Collecting from the embedded world's own server over real sockets; server and collector in processes of their own.

    python benchmarks/collection.py faults --clips 900       # 32 at a time until every clip is there
    python benchmarks/collection.py kills --kills 60 --clips 6000 --share 0.2   # kill -9 at random moments, then finish
    python benchmarks/collection.py overhead --clips 320 --delay 30 --spread 0.3
    python benchmarks/collection.py memory --clips 10000     # one process, its memory every thousand clips

Prints one JSON object: what was injected, what the server made, what the store and the ledger hold.
"""

import argparse
import heapq
import json
import os
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

from understudy.collection.collect import CollectReport, Job, Policy, collect
from understudy.collection.ledger import Ledger
from understudy.collection.store import ClipStore
from understudy.teachers.base import ClipParams, Terms
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape
from understudy.teachers.world.server import World, serve
from understudy.teachers.world.teacher import WorldTeacher

PLACES = 32
TINY = ClipParams(frames=4, fps=8.0, width=16, height=16)
FAST = Policy(
    concurrency=PLACES, poll=0.05, first_wait=0.02, longest_wait=0.2, tries=20, downloads=8, attempts=8, failures=50
)


def jobs(count: int) -> list[Job]:
    """Return ``count`` jobs of one prompt, told apart by their seeds."""
    return [Job("a small red ball is dropped", seed) for seed in range(count)]


def ask(port: int, store: Path, count: int, policy: Policy = FAST) -> dict[str, object]:
    """Collect, and return how long that took and how much memory was in use on the way."""
    web = Web(f"http://127.0.0.1:{port}")
    shape = load_shape("openai-videos", {}, {})
    teacher = WireTeacher(shape, web, "world", "w", Terms("yes", "embedded world"), 0.0, idempotent=True)
    memory: dict[int, float] = {}

    def note(report: CollectReport) -> None:
        if report.done % 1000 == 0 and report.done not in memory:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory[report.done] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)

    begun = time.monotonic()
    collect(teacher, jobs(count), ClipStore(store, create=True), TINY, note, policy)
    return {"collect_seconds": round(time.monotonic() - begun, 2), "memory_mib_by_clips": memory}


def ideal(world: World, places: int) -> float:
    """Return the seconds in which a teacher with ``places`` places does its jobs, one after the other, never idle."""
    free = [0.0] * min(places, len(world.jobs))
    for job in world.jobs.values():
        heapq.heappush(free, heapq.heappop(free) + job.due - job.begun)
    return max(free)


def idle_share(world: World, places: int) -> float:
    """Return the time that the teacher's places stood empty while there was work for them, relative to the time of the jobs.

    A place is free when its job is done, whether anybody has noticed or not, until the next submission arrives.
    """
    begun = sorted(job.begun for job in world.jobs.values())
    free = [begun[0]] * places + sorted(job.due for job in world.jobs.values())
    idle = sum(start - since for start, since in zip(begun, free, strict=False))
    return idle / sum(job.due - job.begun for job in world.jobs.values())


def accounts(world: World, path: Path, count: int) -> dict[str, object]:
    """Return whether the server, the store and the ledger agree."""
    store = ClipStore(path)
    with Ledger(path) as ledger:
        states = Counter(row.state for row in ledger.jobs())
        ended = sqlite3.connect(ledger.path).execute("SELECT handle, outcome FROM submissions").fetchall()
    given_up = [
        h for h, outcome in ended if outcome in ("expired", "failed") and h in world.jobs and world.jobs[h].good
    ]
    good = Counter(job.request["seed"] for job in world.jobs.values() if job.good)
    return {
        "clips_wanted": count,
        "clips_in_store": sum(record.status == "done" for record in store.records()),
        "problems_of_the_store": len(store.verify()),
        "ledger": dict(states),
        "faults_injected": sum(world.injected.values()),
        "faults": dict(sorted(world.injected.items())),
        "jobs_made": len(world.jobs),
        "jobs_the_server_lost_or_failed": sum(not job.good for job in world.jobs.values()),
        "submission_keys_used_for_two_jobs": len(world.jobs) - len({job.key for job in world.jobs.values()}),
        "good_jobs_given_up": len(given_up),
        "clips_with_two_good_jobs": sum(count > 1 for count in good.values()),
    }


def kill(child: list[str], kills: int) -> int:
    """Start the collector and kill it, ``kills`` times at random moments; return how often it had ended before."""
    moment, ended = random.Random(0), 0
    for _ in range(kills):
        process = subprocess.Popen(child, stdout=subprocess.DEVNULL)
        try:
            process.wait(moment.uniform(0.8, 2.2))
            ended += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return ended


def finish(child: list[str]) -> tuple[dict[str, object], int]:
    """Run the collector until nothing is left, as its message tells a user to; return its last word and the runs."""
    for run in range(1, 11):
        done = subprocess.run(child, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout), run
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
    raise SystemExit("ten collections did not finish it")


def main() -> None:
    """Run one of the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=("faults", "kills", "overhead", "memory", "child"))
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--spread", type=float, default=0.0)
    parser.add_argument("--plain", action="store_true", help="the collector's own default policy")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--store", type=Path)
    args = parser.parse_args()
    if args.trial == "child":
        policy = Policy(concurrency=PLACES) if args.plain else FAST
        print(json.dumps(ask(args.port, args.store, args.clips, policy)))
        return
    share = args.share if args.trial in ("faults", "kills") else 0.0
    world = World(WorldTeacher(size=16, frames=4), args.delay, share, 0, args.spread)
    server = serve(world)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        path, begun = Path(folder) / "store", time.monotonic()
        child = [sys.executable, __file__, "child", "--port", str(server.server_port), "--store", str(path)]
        child += ["--clips", str(args.clips), *(["--plain"] if args.trial == "overhead" else [])]
        result: dict[str, object] = {"trial": args.trial}
        if args.trial == "kills":
            ended = kill(child, args.kills)
            result |= {"kills": args.kills - ended, "collections_that_ended_before_their_kill": ended}
        said, runs = finish(child)
        own, used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        result |= {
            "seconds": round(time.monotonic() - begun, 1),
            **said,
            "collections_until_nothing_was_left": runs,
            "server_cpu_seconds": round(own.ru_utime + own.ru_stime, 1),
            "collector_cpu_seconds_with_decoders": round(used.ru_utime + used.ru_stime, 1),
            "collector_peak_mib": round(used.ru_maxrss / 1024),
            "requests": dict(world.asked),
        }
        if args.delay:
            best = ideal(world, PLACES)
            result |= {
                "places_idle_share": round(idle_share(world, PLACES), 4),
                "ideal_seconds": round(best, 2),
                "longer_than_ideal": round(float(str(said["collect_seconds"])) / best - 1, 4),
            }
        print(json.dumps(result | accounts(world, path, args.clips), indent=1))


if __name__ == "__main__":
    main()
