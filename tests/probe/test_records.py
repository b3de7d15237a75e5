"""What is written into the ring."""
import json
import os
import sys

import pytest
import support

FULL = ["SETUP", "CALL", "TEARDOWN", "END"]
SECONDS = """
    import time
    def busy(ms):  # so long that the plugin counts all at the next boundary, too
        end = time.monotonic() + ms / 1000
        while time.monotonic() < end:
            pass
"""


def births(ring):
    """Of each BIRTHS after the first: the record before it, and what it holds."""
    found = []
    records = ring.records()
    for before, record in zip(records, records[1:]):
        if record.kind == "BIRTHS" and not record.flags:
            found.append((before.kind, before.serial, json.loads(record.text)))
    return found


def test_session_collection_and_phases(suite):
    suite.write("test_a.py", "def test_one(): pass\nclass TestX:\n    def test_two(self): pass\n")
    suite.write("sub/test_b.py", "def test_three(): pass\n")
    result = suite.watched("test_a.py", "sub")
    ring, = result.rings
    assert ring.tests() == [
        ("test_a.py::test_one", FULL, 0),
        ("test_a.py::TestX::test_two", FULL, 0),
        ("sub/test_b.py::test_three", FULL, 0),
    ]
    kinds = ring.kinds(*FULL)
    assert kinds[:2] == ["SESSION", "BIRTHS"] and kinds[-2:] == ["FINISH", "UNCONFIGURE"]
    records = ring.records()
    assert [r.text for r in records if r.kind == "COLLECT" and r.text] == [
        "test_a.py", "sub/test_b.py"]
    assert records[kinds.index("COLLECTED") - 1].text == ""  # the modules are done
    collected, = [json.loads(r.text) for r in records if r.kind == "COLLECTED"]
    assert collected["count"] == 3
    with open(os.path.join(result.run.path, collected["list"])) as file:
        assert file.read().splitlines() == [test for test, _, _ in ring.tests()]
    assert [r.text for r in records if r.kind == "FINISH"] == ["0"]
    times = [record.time for record in records]
    assert times == sorted(times)
    assert os.listdir(result.run.path + "/rings") == [os.path.basename(ring.path)]


def test_session_tells_of_the_run(suite):
    suite.write("test_a.py", "def test_a(): pass\n")
    result = suite.watched("--junitxml=out/report.xml")
    session = result.rings[0].session()
    signal = session.pop("signal")
    assert signal == 45
    assert session.pop("ppid") == os.getpid()
    assert session == {
        "python": "%d.%d.%d" % sys.version_info[:3], "pytest": pytest.__version__,
        "worker": None, "controller": False, "forked": False, "run": None,
        "root": suite.path(""), "xmlpath": suite.path("out/report.xml"),
        "timeout": None, "timeout_active": True, "func_only": False,
    }


def test_outcomes(suite):
    suite.write("test_a.py", """
        import pytest, unittest
        def test_fails():
            assert 1 == 2, "a message\\nof two lines"
        @pytest.mark.skip(reason="for a reason")
        def test_skipped(): pass
        @pytest.mark.xfail(reason="known")
        def test_xfails(): assert False
        @pytest.mark.xfail(reason="wrong")
        def test_xpasses(): pass
        @pytest.mark.xfail(strict=True, reason="strict")
        def test_strict(): pass
        @pytest.fixture
        def broken(): raise RuntimeError("in setup")
        def test_setup(broken): pass
        @pytest.fixture
        def broken_later():
            yield
            raise RuntimeError("in teardown")
        def test_teardown(broken_later): pass
        def test_both(broken_later): assert False
        class TestUnit(unittest.TestCase):
            def test_method(self): self.fail("of unittest")
        def test_long(): raise ValueError("x" * 100000)
    """)
    ring, = suite.watched().rings
    ends = {test.split("::", 1)[1]: flags for test, _, flags in ring.tests()}
    assert ends == {
        "test_fails": 1, "test_skipped": 3, "test_xfails": 3, "test_xpasses": 0, "test_strict": 1,
        "test_setup": 2, "test_teardown": 2, "test_both": 1, "TestUnit::test_method": 1,
        "test_long": 1,
    }
    reports = [(r.serial, r.flags, r.text) for r in ring.records() if r.kind == "REPORT"]
    assert reports[0][:2] == (1, 2)
    assert reports[0][2].startswith("failed\nAssertionError: a message\n  of two lines")
    assert reports[1] == (2, 1, "skipped\nSkipped: for a reason")
    assert [text.split("\n")[0] for _, _, text in reports[2:]] == [
        "xfailed", "xpassed"] + ["failed"] * 7
    assert [(serial, flags) for serial, flags, _ in reports[5:9]] == [(6, 1), (7, 3), (8, 2), (8, 3)]
    assert len(reports[-1][2]) <= 4096 + 10


def test_a_setup_that_ends_before_our_hook(suite):
    suite.write("conftest.py", """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_setup(item):
            if item.name == "test_skipped":
                pytest.skip("not here")
    """)
    suite.write("test_a.py", """
        def test_one(): pass
        def test_skipped(): pass
        def test_two(): pass
    """)
    result = suite.watched()
    assert result.rings[0].tests() == [
        ("test_a.py::test_one", ["SETUP", "CALL", "TEARDOWN", "END"], 0),
        ("test_a.py::test_skipped", ["SETUP", "REPORT", "TEARDOWN", "END"], 3),
        ("test_a.py::test_two", ["SETUP", "CALL", "TEARDOWN", "END"], 0),
    ]


def test_node_ids_of_all_kinds(suite):
    suite.write("test_a.py", """
        # -*- coding: utf-8 -*-
        import pytest
        @pytest.mark.parametrize("x", [1, 2, 3, 4, 5, 6], ids=[
            "line\\nbreak", "back\\\\slash", "caf\\u00e9 \\U0001f600", "a::b[c]", " ", "x" * 20000])
        def test_ids(x): pass
    """)
    run = suite.new_run()
    result = suite.watched(run=run, env={"PYTHONUTF8": "1"})
    assert suite.outcomes(result) == {"passed": 6}, result
    ring, = result.rings
    tests = [test for test, _, _ in ring.tests()]
    assert tests[2] == "test_a.py::test_ids[caf\\xe9 \\U0001f600]"
    assert len(tests) == 6 and all(test.startswith("test_a.py::test_ids[") for test in tests)
    listed = [json.loads(r.text)["list"] for r in ring.records() if r.kind == "COLLECTED"]
    with open(os.path.join(run.path, listed[0]), encoding="utf-8", newline="") as file:
        lines = file.read().split("\n")[:-1]
    assert len(lines) == 6
    assert lines[:5] == [test.replace("\\", "\\\\").replace("\n", "\\n") for test in tests[:5]]
    assert len(lines[5]) > 20000 > len(tests[5]) > 16000


def test_a_path_that_is_no_utf8(suite):
    name = os.fsdecode(b"test_\xff.py")
    suite.write(name, "def test_a(): pass\n")
    plain, watched = suite.pytest(), suite.watched()
    assert (watched.code, watched.err) == (plain.code, plain.err)
    for ring in watched.rings:
        ring.records()  # decodes all of them


def test_lines_files_and_limits(suite):
    suite.write("pytest.ini", "[pytest]\nmarkers =\n    hangscope\n    timeout\n")
    suite.write("sub/test_a.py", """\
        import pytest, unittest
        pytestmark = pytest.mark.timeout(30)
        def test_module(): pass
        @pytest.mark.timeout(timeout=2.5, method="thread")
        def test_own(): pass
        @pytest.mark.hangscope(timeout=4)
        def test_ours(): pass
        @pytest.mark.hangscope(5)
        class TestX:
            def test_class(self): pass
            @pytest.mark.hangscope(0)
            def test_none(self): pass
        @pytest.mark.timeout(0)
        def test_no_limit(): pass
        @pytest.mark.hangscope(timeout=10 ** 400)
        def test_nonsense(): pass
        @pytest.mark.hangscope
        def test_bare(): pass
        @pytest.mark.hangscope("1h 30m")
        def test_spelled(): pass
        @pytest.mark.hangscope(timeout="500ms")
        def test_short(): pass
        @pytest.mark.hangscope(timeout="2.5m1s")
        def test_parts(): pass
        @pytest.mark.hangscope("7")
        def test_digits(): pass
        @pytest.mark.hangscope("5 apples\\t", object)
        def test_apples(): pass
        """)
    suite.write("test_b.py", "def test_free(): pass\n")
    # pytest-timeout would complain of some
    ring, = suite.watched("-p", "no:timeout", "--strict-markers", "sub", "test_b.py").rings
    setups = [r.text.split("\n") for r in ring.records() if r.kind == "SETUP"]
    assert [(line, limit, test.rsplit("::")[-1]) for line, limit, _, test in setups] == [
        ("3", "timeout:30.0", "test_module"),
        ("4", "timeout:2.5", "test_own"),
        ("6", "hangscope:4.0", "test_ours"),
        ("10", "hangscope:5.0", "test_class"),
        ("11", "hangscope:0.0", "test_none"),
        ("13", "timeout:0.0", "test_no_limit"),
        ("15", "timeout:30.0\ttimeout=1" + "0" * 55, "test_nonsense"),
        ("17", "timeout:30.0\t", "test_bare"),
        ("19", "hangscope:5400.0", "test_spelled"),
        ("21", "hangscope:0.5", "test_short"),
        ("23", "hangscope:151.0", "test_parts"),
        ("25", "hangscope:7.0", "test_digits"),
        ("27", "timeout:30.0\t'5 apples\\t', <class 'object'>", "test_apples"),
        ("1", "", "test_free"),
    ]
    assert {file for _, _, file, _ in setups} == {"sub/test_a.py", "test_b.py"}


@pytest.mark.parametrize("args, env, ini, timeout, func_only, active", [
    (["--timeout=7"], {"PYTEST_TIMEOUT": "8"}, "timeout = 9", 7, False, True),
    ([], {"PYTEST_TIMEOUT": "8"}, "timeout = 9\ntimeout_func_only = true", 8, True, True),
    ([], {}, "timeout = 9", 9, False, True),
    (["--timeout=0"], {}, "timeout = 9", None, False, True),
    (["-p", "no:timeout"], {}, "timeout = 9\ntimeout_func_only = true", 9, True, False),
    (["-p", "no:timeout"], {}, "", None, False, False),
])
def test_global_limit(suite, args, env, ini, timeout, func_only, active):
    suite.write("pytest.ini", "[pytest]\n" + ini + "\n")
    suite.write("test_a.py", "def test_a(): pass\n")
    plain, watched = suite.pytest(*args, env=env), suite.watched(*args, env=env)
    # a warning of ours ("Config.inicfg is deprecated") would show
    assert support.without_times(watched.out) == support.without_times(plain.out)
    session = watched.rings[0].session()
    assert session["timeout"] == timeout
    assert session["func_only"] is func_only and session["timeout_active"] is active


def test_threads_and_children_are_told_when_they_appear(suite):
    suite.write("busy.py", SECONDS)
    suite.write("test_a.py", """
        import os, subprocess, threading
        import pytest
        from busy import busy
        stop = threading.Event()

        def test_nothing(): pass

        @pytest.fixture
        def thread_in_setup():
            thread = threading.Thread(target=stop.wait, name="from setup", daemon=True)
            thread.start()

        def test_setup(thread_in_setup): pass

        def test_call():
            global child
            child = subprocess.Popen(["sleep", "1000"])
            busy(1)

        def test_swap():
            # one ends, another starts: as many as before
            stop.set()
            for thread in threading.enumerate():
                if thread.name == "from setup":
                    thread.join()
            while len(os.listdir("/proc/self/task")) > 1:
                pass
            threading.Thread(target=child.wait, name="new", daemon=True).start()
            busy(1)

        def test_end():
            child.kill()
            while len(os.listdir("/proc/self/task")) > 1:  # join() returns a little earlier
                pass
            busy(1)
    """)
    result = suite.watched()
    assert suite.outcomes(result) == {"passed": 5}, result.out
    ring, = result.rings
    records = ring.records()
    assert records[1].kind == "BIRTHS" and records[1].flags == 1
    base = json.loads(records[1].text)
    assert base["threads"] == [[ring.pid, "MainThread", False]]
    assert (base["os_threads"], base["interpreters"], base["children"]) == ([], [0], [])
    setup, call, swap, end = births(ring)
    assert setup[:2] == ("CALL", 2)
    (tid, name, daemon), = setup[2]["threads"]
    assert (name, daemon) == ("from setup", True) and tid > 0
    assert call[:2] == ("TEARDOWN", 3)
    pid, = call[2]["children"]
    assert swap[:2] == ("TEARDOWN", 4)
    assert [name for _, name, _ in swap[2]["threads"]] == ["new"]
    assert swap[2]["gone"] == {"threads": [tid], "interpreters": [], "children": []}
    assert end[:2] == ("TEARDOWN", 5)
    assert end[2]["gone"]["children"] == [pid] and len(end[2]["gone"]["threads"]) == 1
    # counts before and after
    by_kind = {(r.serial, r.kind): r for r in records}
    assert by_kind[3, "SETUP"].children == 0 and by_kind[3, "END"].children == 1
    assert by_kind[2, "SETUP"].threads == 1 and by_kind[2, "END"].threads == 2
    assert by_kind[5, "END"].os_threads == 1


def test_descriptors(suite):
    suite.write("test_a.py", """
        import os
        def test_a(): pass
        def test_leak():
            global files
            files = [open("/dev/null") for _ in range(7)]
        def test_b(): pass
    """)
    result = suite.watched()
    records = {(r.serial, r.kind): r for r in result.rings[0].records()}
    assert records[2, "END"].fds - records[2, "SETUP"].fds == 7
    assert records[3, "END"].fds == records[2, "END"].fds


def test_many_threads_fit_into_records(suite):
    suite.write("test_a.py", """
        import os, threading, time
        def test_many():
            global stop
            stop = threading.Event()
            for number in range(250):
                name = "\\U0001f600" * 500
                threading.Thread(target=stop.wait, name=name, daemon=True).start()
        def test_stop():
            stop.set()
            while len(os.listdir("/proc/self/task")) > 1:  # join() returns a little earlier
                time.sleep(0.001)
    """)
    result = suite.watched("-p", "no:timeout")
    assert suite.outcomes(result) == {"passed": 2}
    pieces = births(result.rings[0])
    assert sum(len(piece["threads"]) for _, _, piece in pieces) == 250
    assert sum(len(piece["gone"]["threads"]) for _, _, piece in pieces) == 250
    assert all(len(r.text.encode()) < 16384 for r in result.rings[0].records())


def test_threads_that_threading_does_not_know(suite):
    suite.write("busy.py", SECONDS)
    suite.write("test_a.py", """
        import _thread, os
        from busy import busy
        def tasks(): return set(os.listdir("/proc/self/task"))
        def test_start():
            global lock
            lock = _thread.allocate_lock()
            lock.acquire()
            before = tasks()
            _thread.start_new_thread(lock.acquire, ())
            with open("tid", "w") as file:
                file.write((tasks() - before).pop())
            busy(1)
        def test_stop():
            lock.release()
            while len(tasks()) > 1:
                pass
    """)
    result = suite.watched("-p", "no:timeout")
    assert suite.outcomes(result) == {"passed": 2}, result.out
    start, stop = births(result.rings[0])
    with open(suite.path("tid")) as file:
        tid = int(file.read())
    assert start[1] == 1 and start[2]["os_threads"] == [tid] and start[2]["threads"] == []
    assert stop[1] == 2 and stop[2]["gone"]["threads"] == [tid]


def test_interpreters(suite):
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    suite.write("test_a.py", """
        def test_before(): pass
        def test_create():
            global module, made
            import %s as module
            made = [module.create() for _ in range(3)]
        def test_destroy():
            module.destroy(made.pop())
        def test_forget():
            for interpreter in made:
                module.destroy(interpreter)
    """ % name)
    result = suite.watched()
    assert suite.outcomes(result) == {"passed": 4}, result.out
    ring, = result.rings
    create, destroy, forget = births(ring)
    assert create[1] == 2 and len(create[2]["interpreters"]) == 3
    assert destroy[1] == 3 and len(destroy[2]["gone"]["interpreters"]) == 1
    assert forget[1] == 4 and len(forget[2]["gone"]["interpreters"]) == 2
    counts = [r.interpreters for r in ring.records() if r.kind == "END"]
    assert counts == [1, 4, 3, 1]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="ids are plain numbers from 3.13 on")
def test_an_interpreter_is_not_kept_alive(suite):
    suite.write("test_a.py", """
        import _xxsubinterpreters as module
        def test_create():
            global made
            made = module.create()
        def test_drop():
            global made
            made = None
            assert len(module.list_all()) == 1
    """)
    result = suite.watched()
    assert suite.outcomes(result) == {"passed": 2}, result.out


def test_a_lapped_ring_is_readable_to_its_end(suite):
    suite.write("test_a.py", """
        import pytest
        @pytest.mark.parametrize("x", range(6000))
        def test_many(x): pass
    """)
    run = suite.new_run()
    assert suite.finish(suite.start("-q", run=run)).code == 0
    name, = os.listdir(run.path + "/rings")
    last = support.last_records(os.path.join(run.path, "rings", name))
    assert last[-1].kind == "UNCONFIGURE" and last[-2].kind == "FINISH"
    ends = [r.serial for r in last if r.kind == "END"]
    assert ends[-1] == 6000 and ends == list(range(ends[0], 6001)) and ends[0] > 1
    assert [r.seq for r in last] == list(range(last[0].seq, last[-1].seq + 1))


def test_pdb_stops_the_clocks(suite):
    suite.write("test_a.py", "def test_a():\n    breakpoint()\n")
    suite.write("quiet.py", """
        import pdb
        class Quiet(pdb.Pdb):
            def interaction(self, *args, **kwargs):
                self.do_continue("")
    """)
    run = suite.new_run()
    env = run.environment(pythonpath=suite.path(""))
    ring, = suite.watched("--pdbcls=quiet:Quiet", run=run, env=env).rings
    kinds = ["SETUP", "CALL", "PDB_ENTER", "PDB_LEAVE", "TEARDOWN", "END"]
    assert ring.tests() == [("test_a.py::test_a", kinds, 0)]
