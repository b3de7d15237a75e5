#!/usr/bin/env python3
"""What one dump costs, beside py-spy on the same process: the table of docs/performance.md."""
import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

THREADS = """
import sys, threading
count = int(sys.argv[1]); threading.stack_size(262144)
lock = threading.Lock(); lock.acquire()
def inner(): lock.acquire()
def work(): inner()
for i in range(count - 1): threading.Thread(target=work, name=f"w{i}", daemon=True).start()
print("READY", flush=True); lock.acquire()
"""


def cpu_ms(command):
    """User plus system time of one run of a command."""
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)])
    _, status, usage = os.wait4(pid, 0)
    if not os.WIFEXITED(status):
        sys.exit(f"{command[0]} was killed")
    return (usage.ru_utime + usage.ru_stime) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hangscope", default="target/release/hangscope")
    parser.add_argument("--py-spy", default="py-spy")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("threads", type=int, nargs="*", default=[1, 100, 1000])
    args = parser.parse_args()
    print("| threads | hangscope CPU | py-spy CPU | ratio |\n|---|---|---|---|")
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(THREADS)
        script.flush()
        for count in args.threads:
            target = subprocess.Popen([args.python, script.name, str(count)], stdout=subprocess.PIPE)
            try:
                target.stdout.readline()
                pid = str(target.pid)
                ours, theirs = [], []
                for _ in range(args.runs):
                    ours.append(cpu_ms([args.hangscope, "dump", pid, "--samples", "1", "--no-native", "--no-tree"]))
                    theirs.append(cpu_ms([args.py_spy, "dump", "--pid", pid]))
            finally:
                target.kill()
                target.wait()
            mine, peer = statistics.median(ours), statistics.median(theirs)
            print(f"| {count:,} | {mine:.1f} ms | {peer:.1f} ms | {mine / peer:.2f} |", flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
