#!/usr/bin/env python3
"""What the pytest plugin of `hangscope watch` costs: CPU time per trivial test. No test.

Runs are interleaved, and each is compared with the bare run of its own round. Time is that of
the pytest process, user and system, from the start of the first test to the end of the last.

usage: tests/bench_probe.py [--tests 10000] [--rounds 7] [PYTHON ...]
PYTHON: an interpreter with pytest and pytest-timeout; default: those of tests/provision.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "probe"))
from support import RunFolder, clean_environment  # noqa: E402

CONFTEST = """
import time, pytest
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    start = time.process_time()
    yield
    with open("cpu", "w") as file:
        file.write(repr(time.process_time() - start))
"""
ALONE = ["no:cacheprovider", "no:xdist", "no:forked", "no:anyio"]
VARIANTS = {
    "bare": ["-p", "no:timeout"],
    "hangscope's plugin": ["-p", "no:timeout"],
    "pytest-timeout, `--timeout=60`": ["--timeout=60"],
    "`faulthandler_timeout=60`": ["-p", "no:timeout", "-o", "faulthandler_timeout=60"],
}


def write_suite(folder, tests):
    with open(os.path.join(folder, "conftest.py"), "w") as file:
        file.write(CONFTEST)
    open(os.path.join(folder, "pytest.ini"), "w").write("[pytest]\n")
    files = 10
    for number in range(files):
        with open(os.path.join(folder, "test_%d.py" % number), "w") as file:
            for test in range(tests // files):
                file.write("def test_%d():\n    pass\n" % test)


def cpu_us(python, folder, variant):
    """CPU time of one run, in microseconds."""
    command = [python, "-m", "pytest", "-q", "--no-header", *VARIANTS[variant]]
    for name in ALONE:
        command += ["-p", name]
    environment = clean_environment()
    if variant == "hangscope's plugin":
        with RunFolder() as run:
            environment.update(run.environment())
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
            if len(os.listdir(run.path + "/rings")) != 1:
                sys.exit("bench_probe: the plugin did not run")
    else:
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    with open(os.path.join(folder, "cpu")) as file:
        return float(file.read()) * 1e6


def measure(python, tests, rounds):
    """Rows: name, microseconds per test over bare (median, lowest, highest), ratio to bare."""
    folder = tempfile.mkdtemp(prefix="bench-probe-")
    try:
        write_suite(folder, tests)
        names = list(VARIANTS)
        taken = {name: [] for name in names}
        for number in range(-1, rounds):  # the first round only warms up
            for name in names[number % 4:] + names[:number % 4]:
                us = cpu_us(python, folder, name)
                if number >= 0:
                    taken[name].append(us / tests)
    finally:
        shutil.rmtree(folder)
    bare = taken["bare"]
    for name in names:
        over = [us - base for us, base in zip(taken[name], bare)]
        ratio = statistics.median(us / base for us, base in zip(taken[name], bare))
        yield name, statistics.median(taken[name]), statistics.median(over), over, ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    args = parser.parse_args()
    pythons = [os.path.abspath(python) for python in args.pythons]
    if not pythons:
        default = os.path.join(ROOT, "target", "test-env", "pythons.json")
        with open(os.environ.get("HANGSCOPE_TEST_PYTHONS", default)) as file:
            venvs = json.load(file)["venvs"]
        pythons = [venvs[version] for version in ("3.9", "3.12", "3.14", "3.15") if version in venvs]
    code = "import sys, pytest; print('Python %d.%d.%d' % sys.version_info[:3] + ', pytest ' + pytest.__version__)"
    print("| | µs per test | over bare | lowest to highest | ratio |")
    print("|---|---|---|---|---|")
    for python in pythons:
        out = subprocess.run([python, "-c", code], env=clean_environment(), check=True,
                             stdout=subprocess.PIPE, universal_newlines=True)
        print("| **%s** | | | | |" % out.stdout.strip())
        for name, us, over, all_over, ratio in measure(python, args.tests, args.rounds):
            if name == "bare":
                print("| %s | %.1f | | | |" % (name, us), flush=True)
            else:
                print("| %s | %.1f | **%.1f** | %.1f to %.1f | %.3f |" % (
                    name, us, over, min(all_over), max(all_over), ratio), flush=True)


if __name__ == "__main__":
    main()
