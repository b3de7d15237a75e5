#!/usr/bin/env python3
"""What native stacks cost, beside other tools on the same process: the table of docs/performance.md. No test.

Targets: C=N (fixtures/programs/native/crowd.c: N threads of some 26 frames), and with --python also py=N (N Python threads
in a lock, some 20 native and 4 Python frames each). For each tool, medians of the runs: wall-clock time, CPU time (user plus
system), the longest time in which a thread of the target that looks at the clock every 0.2 ms could not (this is the pause, and
what else the machine does meanwhile: see the row "nothing"), the pause as the tool itself tells it, peak memory, exit code,
and how often the innermost function of the N is shown.

usage: tests/bench_native.py [--python PYTHON] [--tool NAME=COMMAND ...] [TARGET ...]
COMMAND may say PID and OUT (a file), as in --tool 'py-spy=py-spy dump --native --pid PID'.
"""
import argparse
import json
import os
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CROWD = os.path.join(ROOT, "fixtures/programs/native/crowd.c")
PYTHON_CROWD = """
import ctypes, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
threading.stack_size(1 << 18)
lock = threading.Lock(); lock.acquire(); started = threading.Semaphore(0)
def inner(_): started.release(); lock.acquire()
def work(): list(map(inner, [1]))
for _ in range(int(sys.argv[1])): threading.Thread(target=work, daemon=True).start()
for _ in range(int(sys.argv[1])): started.acquire()
ctypes.CDLL(sys.argv[2]).watch_clock()
print("READY", flush=True)
threading.Event().wait()
"""
TOOLS = {
    "nothing": "sleep 0.2",
    "hangscope": "HANGSCOPE dump PID --native --no-tree --samples 1",
    "hangscope, JSON": "HANGSCOPE dump PID --native --no-tree --samples 1 --format json -o OUT",
    "eu-stack": "eu-stack -p PID",
    "gdb": "gdb -nx -batch -iex 'set debuginfod enabled off' -p PID -ex 'thread apply all bt'",
}


def spawn(command, output):
    """Runs a command: wall-clock and CPU milliseconds, exit code (negative: a signal)."""
    began = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2)])
    _, status, usage = os.wait4(pid, 0)
    wall = (time.monotonic() - began) * 1000
    return wall, (usage.ru_utime + usage.ru_stime) * 1000, os.waitstatus_to_exitcode(status)


class Target:
    def __init__(self, kind, count, python, folder):
        program, library = os.path.join(folder, "crowd"), os.path.join(folder, "libcrowd.so")
        for result, options in ((program, []), (library, ["-shared", "-fPIC"])):
            subprocess.run(["cc", "-g", "-O1", "-pthread", *options, "-o", result, CROWD], check=True)
        command = [program, str(count)] if kind == "C" else [python, "-c", PYTHON_CROWD, str(count), library]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "READY\n":
            sys.exit(f"{kind}={count}: the target does not start")

    def longest_gap(self):
        """In milliseconds, since the last call."""
        self.process.send_signal(signal.SIGUSR1)
        return int(self.process.stdout.readline()) / 1000

    def end(self):
        self.process.kill()
        self.process.wait()


def told_pause(out):
    try:
        with open(out) as file:
            pauses = json.load(file)["samples"][-1]["pauses"]
        return sum(pause["stopped_us"] for pause in pauses) / 1000
    except (OSError, ValueError, KeyError):
        return None


def shown(path):
    with open(path, errors="replace") as file:
        text = file.read()
    # Of C the innermost of the 21 calls; of Python the frame. A frame of text says each once.
    return text.count("inner")


def measure(command, target, folder, runs, limit):
    out, printed, memory = (os.path.join(folder, name) for name in ("out", "printed", "memory"))
    if os.path.exists(out):
        os.unlink(out)
    words = [{"PID": str(target.process.pid), "OUT": out}.get(word, word) for word in shlex.split(command)]
    bounded = ["timeout", "-s", "KILL", str(limit)] + words
    spawn(["time", "-q", "-f", "%M", "-o", memory] + bounded, printed)
    walls, cpus, gaps, pauses = [], [], [], []
    for _ in range(runs):
        target.longest_gap()
        wall, cpu, code = spawn(bounded, printed)
        gaps.append(target.longest_gap())
        walls.append(wall)
        cpus.append(cpu)
        pauses.append(told_pause(out))
        if wall > 10000:
            break
    with open(memory) as file:
        peak = int(file.read().split()[-1]) / 1024
    told = statistics.median(pauses) if None not in pauses else None
    result = out if os.path.exists(out) else printed
    return [statistics.median(numbers) for numbers in (walls, cpus, gaps)] + [told, peak, code, shown(result)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hangscope", default=os.path.join(ROOT, "target/release/hangscope"))
    parser.add_argument("--python")
    parser.add_argument("--tool", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=120, help="seconds for one run of a tool")
    parser.add_argument("targets", nargs="*", default=[], metavar="TARGET")
    args = parser.parse_args()
    targets = args.targets or ["C=100", "C=1000", "C=5000"] + (["py=100", "py=1000"] if args.python else [])
    tools = {name: command.replace("HANGSCOPE", shlex.quote(args.hangscope)) for name, command in TOOLS.items()
             if command.startswith("HANGSCOPE") or shutil.which(command.split()[0])}
    tools.update(tool.split("=", 1) for tool in args.tool)
    print("| target | tool | time | CPU | gap in the target | told pause | memory | exit code | shows |\n" + "|---" * 9 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for wanted in targets:
            kind, _, count = wanted.partition("=")
            target = Target(kind, int(count), args.python, folder)
            try:
                for tool, command in tools.items():
                    if kind == "C" and tool.startswith("py"):
                        continue
                    wall, cpu, gap, told, peak, code, found = measure(command, target, folder, args.runs, args.limit)
                    pause = "" if told is None else f"{told:,.1f} ms"
                    print(f"| {wanted} | {tool} | {wall:,.0f} ms | {cpu:,.0f} ms | {gap:,.1f} ms | {pause} | {peak:.0f} MiB "
                          f"| {code} | {found:,} |", flush=True)
            finally:
                target.end()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
