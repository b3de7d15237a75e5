"""A run folder as `hangscope watch` makes it, a reader of rings, and pytest run with both."""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import namedtuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = os.path.join(ROOT, "src", "watch", "probe")
TOX_OVERRIDE = "testenv.pass_env+=PYTHONPATH,HANGSCOPE_*"
SECONDS = 60  # past it something hangs; not a measure of speed

KINDS = ["", "SESSION", "COLLECT", "COLLECTED", "SETUP", "CALL", "TEARDOWN", "REPORT", "END",
         "BIRTHS", "PDB_ENTER", "PDB_LEAVE", "FINISH", "UNCONFIGURE", "INTERRUPTED"]
HEAD = struct.Struct("<IIQIIIIIIBBH")
Record = namedtuple(
    "Record", "seq time serial threads os_threads interpreters children fds kind flags text")


def clean_environment():
    """Ours, less what bends Python, pytest or the plugin."""
    bending = ("PYTHON", "PYTEST", "HANGSCOPE", "TOX", "COV_", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(bending)}
    env.update(PYTHONDONTWRITEBYTECODE="1", COLUMNS="100", LC_ALL="C.UTF-8")
    return env


class Ring:
    """A ring file as the watcher reads it: by pread, while it is written."""

    def __init__(self, path):
        self.path = path
        pid, self.ticks = re.match(r"(\d+)-(\d+)\.ring$", os.path.basename(path)).groups()
        self.pid = int(pid)

    def records(self):
        """All that is in it; the reader of these tests wants no ring that was lapped."""
        with open(self.path, "rb") as file:
            data = file.read()
        if data[:8] != b"hangscp1":
            return []
        pid, = struct.unpack_from("<I", data, 8)
        ticks, capacity = struct.unpack_from("<QQ", data, 16)
        assert (pid, str(ticks), 4096 + capacity) == (self.pid, self.ticks, len(data))
        total, = struct.unpack_from("<Q", data, 64)
        assert total <= capacity
        records = []
        at = 4096
        while at < 4096 + total:
            length, seq, now, serial, *counts, kind, flags, _ = HEAD.unpack_from(data, at)
            counts = [None if count == 0xFFFFFFFF else count for count in counts]
            text = data[at + HEAD.size:at + length].decode("utf-8")
            records.append(Record(seq, now, serial, *counts, KINDS[kind], flags, text))
            at += length
        assert at == 4096 + total
        assert [record.seq for record in records] == list(range(len(records)))
        return records

    def session(self):
        return json.loads(self.records()[0].text)

    def kinds(self, *without):
        return [r.kind for r in self.records() if r.kind not in without]

    def tests(self):
        """Of each test: node id, the kinds of its records, and the flags of its END or None."""
        tests = []
        for record in self.records():
            if record.kind == "SETUP":
                tests.append([record.text.split("\n", 3)[3], [], None])
            if record.serial and record.kind != "BIRTHS":
                assert record.serial == len(tests)
                tests[-1][1].append(record.kind)
                if record.kind == "END":
                    tests[-1][2] = record.flags
        return [tuple(test) for test in tests]

    def ask(self, serial, stage, text="too long, says the watcher"):
        """Writes a request, as the watcher does before it sends the signal."""
        data = text.encode("utf-8")
        with open(self.path, "r+b") as file:
            file.seek(128)
            file.write(struct.pack("<QII", serial, stage, len(data)) + data)


    def asked(self):
        """Whether a request waits to be acted on."""
        with open(self.path, "rb") as file:
            return struct.unpack_from("<I", file.read(144), 136)[0] != 0


class RunFolder:
    def __init__(self):
        # as the watcher has it: in memory
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
        self.path = tempfile.mkdtemp(prefix="hangscope-test-", dir=folder)
        dist_info = os.path.join(self.path, "probe", "hangscope_probe-0.dist-info")
        os.makedirs(dist_info)
        os.mkdir(os.path.join(self.path, "rings"))
        open(os.path.join(self.path, "interrupts"), "w").close()  # tests may be failed on request
        shutil.copy(os.path.join(SOURCE, "_hangscope_probe.py"), os.path.join(self.path, "probe"))
        for name in ("METADATA", "entry_points.txt"):
            shutil.copy(os.path.join(SOURCE, name), dist_info)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def environment(self, pythonpath=None):
        folders = [self.path + "/probe"] + ([pythonpath] if pythonpath else [])
        return {
            "PYTHONPATH": os.pathsep.join(folders),
            "HANGSCOPE_RUN": self.path,
            "TOX_OVERRIDE": TOX_OVERRIDE,
        }

    def rings(self):
        folder = self.path + "/rings"
        names = os.listdir(folder) if os.path.isdir(folder) else []
        rings = [Ring(os.path.join(folder, name)) for name in names]
        return sorted((r for r in rings if r.records()), key=lambda ring: ring.records()[0].time)

    def ring(self):
        ring, = self.rings()
        return ring


Result = namedtuple("Result", "code out err rings run")


class Suite:
    """Test files in a folder of their own, run by this Python's pytest."""

    def __init__(self, folder):
        self.folder = folder / "suite"
        self.folder.mkdir()
        self.write("pytest.ini", "[pytest]\n")
        self.runs = []
        self.started = []

    def close(self):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for run in self.runs:
            run.__exit__()

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8", errors="surrogateescape")

    def new_run(self):
        self.runs.append(RunFolder())
        return self.runs[-1]

    def start(self, *args, run=None, python=(), env=(), preexec=None, command=None):
        """Starts pytest, watched if there is a run folder, in a process group of its own."""
        environment = clean_environment()
        environment.update(run.environment() if run else {})
        environment.update(env)
        if command is None:
            command = [sys.executable, *python, "-m", "pytest", "-p", "no:cacheprovider", *args]
        process = subprocess.Popen(
            command, cwd=str(self.folder), env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, errors="replace", preexec_fn=preexec)
        self.started.append(process)
        return process

    def finish(self, process, run=None):
        out, err = process.communicate(timeout=SECONDS)
        rings = run.rings() if run else []
        return Result(process.returncode, out, err, rings, run)

    def pytest(self, *args, **kwargs):
        """Runs pytest unwatched."""
        return self.finish(self.start(*args, **kwargs))

    def watched(self, *args, run=None, **kwargs):
        """Runs pytest watched."""
        run = run or self.new_run()
        return self.finish(self.start(*args, run=run, **kwargs), run)

    def path(self, name):
        return str(self.folder / name)

    def wait_for(self, what, process):
        """Waits until what() is true, and returns that; fails if pytest ends first."""
        deadline = time.monotonic() + SECONDS
        while True:
            found = what()
            if found:
                return found
            if process.poll() is not None:
                raise AssertionError("pytest has ended: %s" % (process.communicate(),))
            if time.monotonic() > deadline:
                raise AssertionError("it did not come to that: %s" % what)
            time.sleep(0.005)

    def outcomes(self, result):
        """The words of pytest's last line, with their numbers."""
        line = result.out.strip().splitlines()[-1]
        found = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", line.split(" in ")[0])}
        return {word: n for word, n in found.items() if not word.startswith("warning")}


def without_times(text):
    return re.sub(r"\b\d+\.\d+s\b", "TIME", text)


def last_records(path):
    """The records of a ring that was lapped, from the first that is whole: found by its seq."""
    with open(path, "rb") as file:
        data = file.read()
    capacity, = struct.unpack_from("<Q", data, 24)
    total, = struct.unpack_from("<Q", data, 64)
    start = total % capacity
    data = data[4096 + start:4096 + capacity] + data[4096:4096 + start]
    for first in range(len(data)):
        records = []
        at = first
        while at + HEAD.size <= len(data):
            length, seq, now, serial, *counts, kind, flags, zero = HEAD.unpack_from(data, at)
            whole = HEAD.size <= length <= len(data) - at and 0 < kind < len(KINDS) and not zero
            if not whole or (records and seq != records[-1].seq + 1):
                break
            text = data[at + HEAD.size:at + length].decode("utf-8", "replace")
            records.append(Record(seq, now, serial, *counts, KINDS[kind], flags, text))
            at += length
        if at == len(data) and records:
            return records
    raise AssertionError("no chain of records leads to the end")
