#!/usr/bin/env python3
"""What one dump costs, beside other tools on the same process: the tables of docs/performance.md. No test.

Each case is a process of a known shape: N things that run or wait in the function `inner`. For each tool: CPU time (user
plus system, median), peak memory (GNU time's maximum resident set), exit code, and how many of the N it shows.

usage: tests/bench.py [--python PYTHON] [--tool NAME=COMMAND ...] [CASE[=N] ...]
COMMAND may say PID and OUT (a file), as in --tool 'py-spy=py-spy dump --pid PID'. PYTHON needs trio for the case of trio.
"""
import argparse
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile

HEAD = """
import sys, threading, time
count = int(sys.argv[1]); threading.stack_size(262144)
def start(target, *args):
    thread = threading.Thread(target=target, args=args, daemon=True); thread.start()
    return thread
def ready():
    time.sleep(1); print("READY", flush=True); time.sleep(100000)
"""
# Name: (what the N are, N by default, program).
CASES = {
    "threads": ("threads, each waiting for the same lock", [1, 100, 1000, 4000], """
lock = threading.Lock(); lock.acquire()
def inner(): lock.acquire()
def work(): inner()
for i in range(count - 1): start(work)
if count == 1:
    print("READY", flush=True); work()
ready()
"""),
    "deep": ("frames of one stack", [10000], """
sys.setrecursionlimit(count + 100); threading.stack_size(1 << 29)
def inner(left):
    if left: inner(left - 1)
    time.sleep(100000)
start(inner, count - 1); ready()
"""),
    "interpreters": ("interpreters with a thread in each", [60], """
try: import _interpreters
except ImportError: import _xxsubinterpreters as _interpreters
code = "import time\\ndef inner(): time.sleep(100000)\\ninner()"
run = getattr(_interpreters, "exec", None) or _interpreters.run_string
for i in range(count): start(run, _interpreters.create(), code)
ready()
"""),
    "trio": ("trio tasks, each waiting for an event of its own", [20000], """
import trio, trio.testing
async def inner(event): await event.wait()
async def work(event): await inner(event)
async def main():
    async with trio.open_nursery() as nursery:
        for i in range(count): nursery.start_soon(work, trio.Event())
        await trio.testing.wait_all_tasks_blocked()
        print("READY", flush=True); await trio.sleep_forever()
trio.run(main)
"""),
    "asyncio": ("asyncio tasks, each waiting for an event of its own", [20000], """
import asyncio
async def inner(event): await event.wait()
async def work(event): await inner(event)
async def main():
    tasks = [asyncio.create_task(work(asyncio.Event())) for i in range(count)]
    await asyncio.sleep(0.1)
    print("READY", flush=True); await asyncio.gather(*tasks)
asyncio.run(main())
"""),
    "locks": ("waiters, each for a lock that another thread holds", [2000], """
def holder(lock, held):
    with lock: held.release(); time.sleep(100000)
def inner(lock):
    with lock: pass
for i in range(count):
    lock, held = threading.Lock(), threading.Semaphore(0)
    start(holder, lock, held); held.acquire(); start(inner, lock)
ready()
"""),
    "crowd": ("waiters for one lock that a thread holds", [4000], """
lock, held = threading.Lock(), threading.Semaphore(0)
def holder():
    with lock: held.release(); time.sleep(100000)
def inner():
    with lock: pass
start(holder); held.acquire()
for i in range(count): start(inner)
ready()
"""),
}


def spawn(command, output):
    """Runs a command: CPU milliseconds and exit code (negative: a signal)."""
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2)])
    _, status, usage = os.wait4(pid, 0)
    return (usage.ru_utime + usage.ru_stime) * 1000, os.waitstatus_to_exitcode(status)


def shown(path):
    """How often `inner` is in what a tool has written: as a frame of text, or of JSON."""
    with open(path, errors="replace") as file:
        text = re.sub(r"\x1b\[[0-9;]*m", "", file.read())
    return len(re.findall(r'"function": "inner"|\binner \(|\bin inner\b', text))


def measure(tool, command, pid, folder, runs, limit):
    out, printed, memory = (os.path.join(folder, name) for name in ("out", "printed", "memory"))
    if os.path.exists(out):
        os.unlink(out)
    command = [{"PID": str(pid), "OUT": out}.get(word, word) for word in shlex.split(command)]
    bounded = ["timeout", "-s", "KILL", str(limit)] + command
    # This process is larger than hangscope, and a child is counted from its fork: hence one that is small in between.
    spawn(["time", "-q", "-f", "%M", "-o", memory] + bounded, printed)
    times = []
    for _ in range(runs):
        cpu, code = spawn(bounded, printed)
        times.append(cpu)
        if cpu > 10000:
            break
    with open(memory) as file:
        peak = int(file.read().split()[-1]) / 1024
    count = shown(out if os.path.exists(out) else printed)
    size = os.path.getsize(out) / 1e6 if os.path.exists(out) else None
    return statistics.median(times), peak, code, count, size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hangscope", default="target/release/hangscope")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--tool", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=60, help="seconds for one run of a tool")
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE[=N]")
    args = parser.parse_args()
    dump = shlex.quote(args.hangscope) + " dump PID --no-tree --samples"
    tools = {"hangscope": f"{dump} 1", "hangscope, JSON": f"{dump} 1 --format json -o OUT",
             "hangscope, 3 samples, JSON": f"{dump} 3 --interval 100ms --format json -o OUT"}
    tools.update(tool.split("=", 1) for tool in args.tool)
    print("| case | N | tool | CPU | memory | exit code | shows |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(folder, "case.py")
        for case in args.cases:
            name, _, wanted = case.partition("=")
            _, counts, program = CASES[name]
            with open(script, "w") as file:
                file.write(HEAD + program)
            for count in [int(wanted)] if wanted else counts:
                target = subprocess.Popen([args.python, script, str(count)], stdout=subprocess.PIPE)
                try:
                    if target.stdout.readline() != b"READY\n":
                        sys.exit(f"{case}: the target does not start")
                    for tool, command in tools.items():
                        cpu, peak, code, found, size = measure(tool, command, target.pid, folder, args.runs, args.limit)
                        written = f" ({size:.1f} MB written)" if size else ""
                        print(f"| {name} | {count:,} | {tool} | {cpu:,.0f} ms | {peak:.0f} MiB{written} | {code} | {found:,} |",
                              flush=True)
                finally:
                    target.kill()
                    target.wait()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
