"""The watcher asks for the end of a test that hangs: that test fails, the others run."""
import os
import signal
import time
import xml.etree.ElementTree as ElementTree

import pytest
import support

TEXT = "too long, says the watcher"

HANGS = {
    "sleep": "time.sleep(1000)",
    "loop": "while True: pass",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "event": "threading.Event().wait()",
    "join": "threading.Thread(target=threading.Event().wait, daemon=True).start();"
            " threading.enumerate()[-1].join()",
    "queue": "queue.Queue().get()",
    "select": "select.select([], [], [])",
    "read": "os.read(os.pipe()[0], 1)",
    "subprocess": "subprocess.run(['sleep', '1000'])",
    "exception": """
    while True:
        try:
            time.sleep(1000)
        except Exception:
            pass
""",
    "trio": "trio.run(trio.sleep_forever)",
    "trio_nursery": """
    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
    trio.run(main)
""",
    # It says itself that it is ready: as trio starts, its SIGINT handler waits for the next checkpoint, and none comes.
    "trio_loop": """
    async def main():
        ready()
        while True:
            pass
    trio.run(main)
""",
    "asyncio": "asyncio.run(asyncio.sleep(1000))",
    "old_asyncio": """
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.sleep(1000))
    finally:
        loop.close()
""",
}
IMPORTS = """\
import asyncio, os, queue, select, subprocess, threading, time, unittest
import pytest, trio

def ready():
    with open("ready.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename("ready.new", "ready")

def works():
    assert trio.run(trio.sleep, 0) is None
    assert asyncio.run(asyncio.sleep(0)) is None

"""


class Watcher:
    """The part of the watcher that ends tests."""

    def __init__(self, suite, *args, **kwargs):
        self.suite = suite
        self.run = suite.new_run()
        self.process = suite.start("--junitxml=report.xml", *args, run=self.run, **kwargs)

    def ready(self, loops=False):
        """Waits until the test hangs, in a loop or else blocked; the ring of its process."""
        ready = self.suite.path("ready")
        self.suite.wait_for(lambda: os.path.exists(ready), self.process)
        with open(ready) as file:
            pid = int(file.read())
        os.unlink(ready)
        ring, = [ring for ring in self.run.rings() if ring.pid == pid]
        if not loops:
            self.suite.wait_for(lambda: main_thread_sleeps(ring.pid), self.process)
        return ring

    def ask(self, ring, stage, serial):
        ring.ask(serial, stage, TEXT)
        os.kill(ring.pid, ring.session()["signal"])

    def interrupt(self, ring, stage):
        """Asks until it is acted on.

        Another thread of the process may catch the signal (that of faulthandler's timeout, as
        it starts), or it may come just before the main thread blocks: that goes on blocking.
        """
        self.ask(ring, stage, len(ring.tests()))
        begun = sent = time.monotonic()

        def acted():
            nonlocal sent
            if ring.asked() and time.monotonic() > sent + 0.5:
                sent = time.monotonic()
                os.kill(ring.pid, ring.session()["signal"])
            return not ring.asked()

        while not acted():
            assert time.monotonic() < begun + support.SECONDS, "it does not act"
            time.sleep(0.005)

    def finish(self):
        result = self.suite.finish(self.process, self.run)
        self.out = result.out
        self.result = result
        self.cases = {}
        for case in ElementTree.parse(self.suite.path("report.xml")).getroot().iter("testcase"):
            what = [(child.tag, child.get("message")) for child in case]
            self.cases.setdefault(case.get("name"), []).extend(what)
        return result


def main_thread_sleeps(pid):
    with open("/proc/%d/task/%d/stat" % (pid, pid)) as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def write_hangs(suite, names):
    text = IMPORTS
    for name in names:
        hang = HANGS[name]
        ready = "pass" if "ready()" in hang else "ready()"
        text += "def test_%s():\n    %s\n    %s\n" % (name, ready, hang)
        text += "def test_after_%s():\n    works()\n" % name
    (suite.folder / "test_a.py").write_text(text)


def stage_two_works(name):
    # a failure in the middle of trio breaks its next run: why there is a first stage
    return "trio" not in name


@pytest.mark.parametrize("stage", [1, 2])
def test_hangs_of_all_kinds(suite, stage):
    names = [name for name in HANGS if stage == 1 or stage_two_works(name)]
    write_hangs(suite, names)
    watcher = Watcher(suite)
    for name in names:
        watcher.interrupt(watcher.ready(loops="loop" in name), stage)
    result = watcher.finish()
    assert result.code == 1, result.out
    assert {name: case for name, case in watcher.cases.items() if case} == {
        "test_" + name: [("failure", "Failed: " + TEXT)] for name in names}, result.out
    assert len(watcher.cases) == 2 * len(names)
    assert "_hangscope_probe" not in result.out
    records = result.rings[0].records()
    did = [(r.flags, r.text) for r in records if r.kind == "INTERRUPTED"]
    assert len(did) == len(names) and {flags for flags, _ in did} == {stage}
    if stage == 2:
        assert {text for _, text in did} == {"raised a failure"}
    else:
        assert did[0] == (1, "called the SIGINT handler default_int_handler")
    ends = [r.flags for r in records if r.kind == "END"]
    assert ends == [1, 0] * len(names)


def test_the_report_shows_where_it_hung(suite):
    suite.write("test_a.py", """
        import os, time
        def wait_for_it():
            print("so far")
            with open("ready.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename("ready.new", "ready")
            time.sleep(1000)  # here
        def test_hangs():
            wait_for_it()
    """)
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    result = watcher.finish()
    for wanted in ["time.sleep(1000)  # here", "so far", "test_a.py:8: Failed",
                   "FAILED test_a.py::test_hangs - Failed: " + TEXT]:
        assert wanted in result.out


PHASES = IMPORTS + """
@pytest.fixture
def hangs_in_setup():
    ready()
    %(hang)s

def test_setup(hangs_in_setup):
    assert False

@pytest.fixture
def notes():
    yield
    with open("notes", "a") as file:
        file.write("torn down\\n")

@pytest.fixture
def hangs_in_teardown(notes):
    yield
    ready()
    %(hang)s

def test_next():
    works()

def test_teardown(hangs_in_teardown):
    pass
"""


@pytest.mark.parametrize("hang", ["sleep", "asyncio", "trio_nursery"])
def test_setup_and_teardown(suite, hang):
    hang = HANGS[hang].strip("\n")
    if "\n" in hang:
        hang = "\n".join(hang.split("\n")).strip()
    (suite.folder / "test_a.py").write_text(PHASES % {"hang": hang})
    # in another module: it fails if the teardown before it was left half done
    (suite.folder / "test_b.py").write_text(IMPORTS + "def test_other_module():\n    works()\n")
    watcher = Watcher(suite)
    for _ in range(2):
        watcher.interrupt(watcher.ready(), 1)
    result = watcher.finish()
    assert result.code == 1, result.out
    assert sorted(name for name, case in watcher.cases.items() if case) == [
        "test_setup", "test_teardown"], result.out
    assert [kind for kind, _ in watcher.cases["test_setup"]] == ["error"]
    assert [kind for kind, _ in watcher.cases["test_teardown"]] == ["error"]
    assert suite.outcomes(result) == {"passed": 3, "errors": 2}, result.out
    assert TEXT in watcher.cases["test_setup"][0][1]
    assert TEXT in watcher.cases["test_teardown"][0][1]
    with open(suite.path("notes")) as file:
        assert file.read() == "torn down\n"


def test_a_hung_fixture_of_a_module_is_not_set_up_again(suite):
    (suite.folder / "test_a.py").write_text(IMPORTS + """
@pytest.fixture(scope="module")
def resource():
    ready()
    time.sleep(1000)
def test_one(resource): pass
def test_two(resource): pass
""")
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    assert suite.outcomes(watcher.finish()) == {"errors": 2}


def test_unittest_tears_down(suite):
    (suite.folder / "test_a.py").write_text(IMPORTS + """
class TestX(unittest.TestCase):
    def tearDown(self):
        open("torn-down", "w").close()
    def test_hangs(self):
        ready()
        time.sleep(1000)
    def test_next(self):
        works()
""")
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    assert suite.outcomes(watcher.finish()) == {"failed": 1, "passed": 1}
    assert watcher.cases["test_hangs"] == [("failure", "Failed: " + TEXT)]
    assert os.path.exists(suite.path("torn-down"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_plugin(suite, backend):
    (suite.folder / "test_a.py").write_text(IMPORTS + """
import anyio
pytestmark = pytest.mark.anyio
@pytest.fixture
def anyio_backend(): return %r
async def test_hangs():
    ready()
    await anyio.sleep(1000)
async def test_next():
    await anyio.sleep(0)
def test_plain():
    works()
""" % backend)
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    result = watcher.finish()
    assert [name for name, case in watcher.cases.items() if case] == ["test_hangs"], result.out
    assert watcher.cases["test_hangs"] == [("failure", "Failed: " + TEXT)], result.out
    assert suite.outcomes(result) == {"failed": 1, "passed": 2}, result.out


def test_an_interrupt_that_the_test_keeps_for_itself(suite):
    (suite.folder / "test_a.py").write_text(IMPORTS + """
def test_passes_then():
    try:
        ready()
        time.sleep(1000)
    except:
        pass
def test_next():
    works()
""")
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    result = watcher.finish()
    assert suite.outcomes(result) == {"failed": 1, "passed": 1}, result.out
    assert watcher.cases["test_passes_then"] == [("failure", "Failed: " + TEXT)]


def test_stage_two_after_stage_one_was_ignored(suite):
    (suite.folder / "test_a.py").write_text(IMPORTS + """
import signal
def test_ignores():
    old = signal.signal(signal.SIGINT, lambda *_: ready())
    try:
        ready()
        while True: time.sleep(1000)
    finally:
        signal.signal(signal.SIGINT, old)
def test_next():
    works()
""")
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    watcher.interrupt(watcher.ready(), 2)
    result = watcher.finish()
    assert suite.outcomes(result) == {"failed": 1, "passed": 1}, result.out
    assert watcher.cases["test_ignores"] == [("failure", "Failed: " + TEXT)]
    did = [(r.flags, r.text) for r in result.rings[0].records() if r.kind == "INTERRUPTED"]
    assert [flags for flags, _ in did] == [1, 2]
    assert "test_ignores.<locals>.<lambda>" in did[0][1]


def test_asyncio_with_a_task_that_never_yields(suite):
    """Its SIGINT handler only cancels the main task, which then never gets its turn."""
    (suite.folder / "test_a.py").write_text(IMPORTS + """
async def busy():
    ready()
    while True:
        pass
async def main():
    task = asyncio.ensure_future(busy())
    await asyncio.sleep(1000)
def test_hangs():
    asyncio.run(main())
def test_next():
    works()
""")
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(loops=True), 2)
    assert suite.outcomes(watcher.finish()) == {"failed": 1, "passed": 1}
    assert watcher.cases["test_hangs"] == [("failure", "Failed: " + TEXT)]


def test_where_interrupts_are_ignored(suite):
    """Started as by `pytest &` in a script."""
    write_hangs(suite, ["sleep"])
    watcher = Watcher(suite, preexec=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    watcher.interrupt(watcher.ready(), 1)
    assert suite.outcomes(watcher.finish()) == {"failed": 1, "passed": 1}


def test_a_worker_of_xdist(suite):
    write_hangs(suite, ["sleep"])
    watcher = Watcher(suite, "-n2")
    watcher.interrupt(watcher.ready(), 1)
    result = watcher.finish()
    assert suite.outcomes(result) == {"failed": 1, "passed": 1}, result.out
    assert "crashed" not in result.out


def test_a_request_for_another_test_does_nothing(suite):
    (suite.folder / "test_a.py").write_text(IMPORTS + """
import signal
def test_one():
    pass
def test_two():
    ready()
    while not os.path.exists("go-on"):
        time.sleep(0.01)
def test_three():
    works()
""")
    watcher = Watcher(suite)
    ring = watcher.ready(loops=True)
    for serial, stage in [(1, 1), (3, 2), (0, 1), (2, 0), (2, 7)]:
        watcher.ask(ring, stage, serial)
        wait_until_delivered(suite, watcher.process, ring.session()["signal"])
    open(suite.path("go-on"), "w").close()
    result = watcher.finish()
    assert result.code == 0 and suite.outcomes(result) == {"passed": 3}
    assert "INTERRUPTED" not in ring.kinds()


def wait_until_delivered(suite, process, number):
    """Until the signal is pending no more. The handler has then run before the next statement."""
    def delivered():
        with open("/proc/%d/status" % process.pid) as file:
            lines = dict(line.split(":\t") for line in file if "Pnd" in line)
        masks = [int(mask, 16) for mask in lines.values()]
        return not any(mask >> (number - 1) & 1 for mask in masks)
    suite.wait_for(delivered, process)


# Where an exception of ours would not end a phase, but the session.
OUTSIDE = {
    "collection": "def pytest_collection_modifyitems(): wait()",
    "report": "def pytest_runtest_makereport(): wait()",
    "between": "def pytest_runtest_logfinish(): wait()",
    "finish": "def pytest_sessionfinish(): wait()",
    "call_info": """
import _pytest.runner
class Timing:
    def __getattr__(self, name):
        if "PYTEST_CURRENT_TEST" in os.environ:
            wait()
        return getattr(timing, name)
timing = _pytest.runner.timing
_pytest.runner.timing = Timing()
""",
    "hook_caller": """
def before(hook_name, methods, kwargs):
    if hook_name == "pytest_runtest_call":
        wait()
def pytest_configure(config):
    config.pluginmanager.add_hookcall_monitoring(before, lambda *_: None)
""",
    "next_try": """
import pytest
from _pytest.runner import runtestprotocol
tries = []
def pytest_runtest_protocol(item, nextitem):
    runtestprotocol(item, log=False, nextitem=nextitem)
    item._initrequest()
    runtestprotocol(item, log=False, nextitem=nextitem)
    return True
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    tries.append(1)
    if len(tries) == 2:
        wait()
def pytest_terminal_summary(terminalreporter):
    terminalreporter.stats["passed"] = tries[1:]
""",
}


@pytest.mark.parametrize("where", OUTSIDE)
def test_a_request_outside_of_tests_does_nothing(suite, where):
    (suite.folder / "conftest.py").write_text("""
import os, time
def wait():
    open("ready", "w").close()
    while not os.path.exists("go-on"):
        time.sleep(0.01)
""" + OUTSIDE[where])
    (suite.folder / "test_a.py").write_text("def test_one(): pass\n")
    watcher = Watcher(suite)
    suite.wait_for(lambda: os.path.exists(suite.path("ready")), watcher.process)
    ring, = watcher.run.rings()
    for stage in (1, 2):
        for serial in (0, 1):
            watcher.ask(ring, stage, serial)
            wait_until_delivered(suite, watcher.process, ring.session()["signal"])
    open(suite.path("go-on"), "w").close()
    result = watcher.finish()
    assert result.code == 0 and suite.outcomes(result) == {"passed": 1}, result.out
    assert "INTERRUPTED" not in ring.kinds()


def test_a_hook_that_wraps_a_phase_hangs(suite):
    suite.write("conftest.py", """
        import os, time
        import pytest
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_call(item):
            if item.name == "test_before":
                hang()
            yield
            if item.name == "test_after":
                hang()
        def hang():
            with open("ready.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename("ready.new", "ready")
            time.sleep(1000)
    """)
    suite.write("test_a.py", """
        def test_before(): pass
        def test_next(): pass
        def test_after(): pass
    """)
    watcher = Watcher(suite)
    for _ in range(2):
        watcher.interrupt(watcher.ready(), 1)
    assert suite.outcomes(watcher.finish()) == {"failed": 2, "passed": 1}


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests came with pytest 9")
def test_a_test_with_subtests(suite):
    (suite.folder / "test_a.py").write_text(IMPORTS + """
def test_hangs(subtests):
    with subtests.test("passes"):
        pass
    with subtests.test("hangs"):
        ready()
        time.sleep(1000)
    with subtests.test("passes, too"):
        pass
def test_next():
    works()
""")
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    result = watcher.finish()
    assert suite.outcomes(result) == {"failed": 2, "passed": 1}, result.out
    assert "INTERNALERROR" not in result.out


def test_pytest_is_left_as_it_was(suite):
    write_hangs(suite, ["sleep", "asyncio", "trio"])
    suite.write("test_b.py", """
        import pytest
        def test_pytest():
            for function in pytest.ExceptionInfo.from_current, pytest.CallInfo.__init__:
                assert "hangscope" not in function.__code__.co_filename
    """)
    watcher = Watcher(suite)
    for _ in range(3):
        watcher.interrupt(watcher.ready(), 1)
    assert suite.outcomes(watcher.finish()) == {"failed": 3, "passed": 4}


def test_the_users_interrupt_after_one_of_ours(suite):
    write_hangs(suite, ["sleep", "lock"])
    watcher = Watcher(suite)
    watcher.interrupt(watcher.ready(), 1)
    watcher.ready()
    os.kill(watcher.process.pid, signal.SIGINT)
    result = suite.finish(watcher.process, watcher.run)
    assert result.code == 2 and "KeyboardInterrupt" in result.out
    assert suite.outcomes(result) == {"failed": 1, "passed": 1}


def test_beside_pytest_timeout_and_faulthandler(suite):
    write_hangs(suite, ["sleep", "lock"])
    watcher = Watcher(suite, "--timeout=500", "-o", "faulthandler_timeout=400")
    watcher.interrupt(watcher.ready(), 1)
    watcher.interrupt(watcher.ready(), 2)
    assert suite.outcomes(watcher.finish()) == {"failed": 2, "passed": 2}


def test_the_limit_of_pytest_timeout_is_as_ever(suite):
    suite.write("test_a.py", """
        import time
        def test_hangs(): time.sleep(1000)
        def test_next(): pass
    """)
    result = suite.watched("--timeout=0.3")
    assert suite.outcomes(result) == {"failed": 1, "passed": 1}, result.out
    assert "from pytest-timeout" in result.out
    assert [flags for _, _, flags in result.rings[0].tests()] == [1, 0]
