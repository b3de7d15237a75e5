#!/usr/bin/env python3
"""What the pytest plugin of `hangscope watch` costs: CPU time per trivial test. No test.

One pytest process has all plugins loaded and runs blocks of 50 tests in turns: with none of them
hooked in, with hangscope's, with pytest-timeout, with faulthandler_timeout; the order is shuffled.
Each block is compared with the bare one of its round, a few milliseconds away, so that the
machine's other work falls on all of them alike. Time is user plus system, of the process.

usage: tests/bench_probe.py [--tests 10000] [--interrupts] [PYTHON ...]
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

BLOCK = 50
VARIANTS = ["bare", "hangscope's plugin", "pytest-timeout, `--timeout=60`", "`faulthandler_timeout=60`"]
CONFTEST = """
import json, platform, random, time
import pytest

BLOCK = %d

def implementations(caller):
    # up to pluggy 1.0 in two lists
    names = ["_hookimpls", "_wrappers", "_nonwrappers"]
    return [getattr(caller, name) for name in names if hasattr(caller, name)]

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    manager = session.config.pluginmanager
    plugins = [
        [plugin for plugin in manager.get_plugins() if type(plugin).__name__ in ("Probe", "Interrupter")],
        [manager.get_plugin("timeout")],
        [manager.get_plugin("faulthandler")],
    ]
    assert all(len(found) == 1 and found[0] for found in plugins), plugins
    plugins = [None] + [found[0] for found in plugins]
    hook = session.config.hook
    callers = [getattr(hook, name) for name in dir(hook) if name.startswith("pytest_runtest_")]
    lists = [entry for caller in callers for entry in implementations(caller)]
    full = [list(entry) for entry in lists]

    def only(wanted):
        for entry, all_of_them in zip(lists, full):
            entry[:] = [i for i in all_of_them if i.plugin is wanted or i.plugin not in plugins]

    shuffle = random.Random(1).shuffle
    items = session.items
    rounds = []
    at = 0
    while at + 4 * BLOCK < len(items):
        order = [0, 1, 2, 3]
        shuffle(order)
        taken = [0.0] * 4
        for variant in order:
            only(plugins[variant])
            start = time.process_time()
            for number in range(at, at + BLOCK):
                item = items[number]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=items[number + 1])
            taken[variant] = (time.process_time() - start) * 1e6 / BLOCK
            at += BLOCK
        rounds.append(taken)
    with open("rounds.json", "w") as file:
        versions = [platform.python_version(), pytest.__version__]
        json.dump({"versions": versions, "rounds": rounds[1:]}, file)
    return True
""" % BLOCK


def measure(python, tests, interrupts):
    """Versions of Python and pytest; a row for each round, µs per test of each variant."""
    folder = tempfile.mkdtemp(prefix="bench-probe-")
    try:
        with open(os.path.join(folder, "conftest.py"), "w") as file:
            file.write(CONFTEST)
        with open(os.path.join(folder, "pytest.ini"), "w") as file:
            file.write("[pytest]\nfaulthandler_timeout = 60\n")
        for number in range(10):
            with open(os.path.join(folder, "test_%d.py" % number), "w") as file:
                for test in range(tests * len(VARIANTS) // 10 + 2 * BLOCK):
                    file.write("def test_%d():\n    pass\n" % test)
        command = [python, "-m", "pytest", "-q", "--timeout=60"]
        for name in ["cacheprovider", "xdist", "forked", "anyio"]:
            command += ["-p", "no:" + name]
        with RunFolder() as run:
            if not interrupts:
                os.unlink(os.path.join(run.path, "interrupts"))
            environment = dict(clean_environment(), **run.environment())
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        with open(os.path.join(folder, "rounds.json")) as file:
            found = json.load(file)
        return found["versions"], found["rounds"]
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", type=int, default=10000, help="tests of each variant")
    parser.add_argument("--interrupts", action="store_true",
                        help="as with --test-timeout: the plugin can fail a test")
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    args = parser.parse_args()
    pythons = [os.path.abspath(python) for python in args.pythons]
    if not pythons:
        default = os.path.join(ROOT, "target", "test-env", "pythons.json")
        with open(os.environ.get("HANGSCOPE_TEST_PYTHONS", default)) as file:
            venvs = json.load(file)["venvs"]
        pythons = [venvs[version] for version in ("3.9", "3.12", "3.14", "3.15") if version in venvs]
    print("| Python | pytest | bare | " + " | ".join(VARIANTS[1:]) + " |")
    print("|---|---|---|---|---|---|")
    for python in pythons:
        versions, rounds = measure(python, args.tests, args.interrupts)
        cells = ["%.0f µs" % statistics.median(taken[0] for taken in rounds)]
        for variant in range(1, len(VARIANTS)):
            over = [taken[variant] - taken[0] for taken in rounds]
            low, middle, high = statistics.quantiles(over, n=4)
            cells.append("**%.1f** (%.1f to %.1f)" % (middle, low, high))
        print("| " + " | ".join(versions + cells) + " |", flush=True)


if __name__ == "__main__":
    main()
