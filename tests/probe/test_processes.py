"""xdist, forks, runs inside of tests, and processes that the plugin does not reach."""
import json
import os
import signal
import sys

import pytest
import support

FULL = ["SETUP", "CALL", "TEARDOWN", "END"]


def workers(result):
    return [ring for ring in result.rings if ring.session()["worker"]]


def test_xdist(suite):
    suite.write("conftest.py", """
        import os
        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                assert "HANGSCOPE_RUN" not in os.environ
    """)
    suite.write("test_a.py", """
        import os, sys
        import pytest
        @pytest.mark.parametrize("x", range(20))
        def test_many(x):
            assert not [name for name in os.environ if name.startswith("HANGSCOPE")]
            assert "PYTHONPATH" not in os.environ
            assert not [path for path in sys.path if "hangscope" in path]
    """)
    result = suite.watched("-n2")
    assert suite.outcomes(result) == {"passed": 20}, result.out
    controller, = [ring for ring in result.rings if ring.session()["controller"]]
    assert controller.tests() == [] and controller.session()["worker"] is None
    assert controller.kinds("BIRTHS") == ["SESSION", "FINISH", "UNCONFIGURE"]
    gw = workers(result)
    assert sorted(ring.session()["worker"] for ring in gw) == ["gw0", "gw1"]
    assert {ring.session()["ppid"] for ring in gw} == {controller.pid}
    tests = sorted(test for ring in gw for test in ring.tests())
    assert [test[0] for test in tests] == sorted("test_a.py::test_many[%d]" % x for x in range(20))
    assert {(tuple(kinds), flags) for _, kinds, flags in tests} == {(tuple(FULL), 0)}
    run, = {ring.session()["run"] for ring in gw}
    lists = {json.loads(r.text)["list"] for w in gw for r in w.records() if r.kind == "COLLECTED"}
    assert lists == {"collected-" + run}
    assert sorted(os.listdir(result.run.path)) == ["collected-" + run, "interrupts", "probe", "rings"]


@pytest.mark.parametrize("how", ["ini", "env", "tx", "dist"])
def test_xdist_however_it_is_told(suite, how):
    suite.write("pytest.ini", "[pytest]\n" + ("addopts = -n1\n" if how == "ini" else ""))
    suite.write("test_a.py", "def test_a(): pass\n")
    env = {"PYTEST_ADDOPTS": "-n 1"} if how == "env" else {}
    args = {"tx": ["-d", "--tx", "popen"], "dist": ["--dist=each", "--tx=popen"]}.get(how, [])
    result = suite.watched(*args, env=env)
    assert [len(ring.tests()) for ring in result.rings] == [0, 1], result.out


@pytest.mark.parametrize("where", ["environment", "conftest"])
def test_xdist_when_the_controller_could_not_know_early(suite, where):
    suite.write("conftest.py", """
        import os
        def pytest_configure(config):
            if not hasattr(config, "workerinput"):
                os.environ.clear()
        def pytest_cmdline_main(config):
            if not hasattr(config, "workerinput") and %r == "conftest":
                config.option.dist = "load"
                config.option.tx = ["popen"]
    """ % where)
    suite.write("test_a.py", "def test_a(): pass\n")
    result = suite.watched(*["-n1"] * (where == "environment"))
    assert [len(ring.tests()) for ring in result.rings] == [0, 1], result.out


def test_no_distribution_is_wanted_after_all(suite):
    suite.write("test_a.py", """
        import os
        def test_a():
            assert not [name for name in os.environ if name.startswith("HANGSCOPE")]
    """)
    result = suite.watched("-n2", "--dist=no", "--tx=", "-n0")
    assert [len(ring.tests()) for ring in result.rings] == [1], result.out


def test_a_worker_crashes_and_is_replaced(suite):
    suite.write("test_a.py", """
        import os
        import pytest
        @pytest.mark.parametrize("x", range(12))
        def test_many(x):
            if x == 5:
                os.kill(os.getpid(), 9)
    """)
    result = suite.watched("-n2")
    assert suite.outcomes(result) == {"failed": 1, "passed": 11}, result.out
    gw = workers(result)
    assert sorted(ring.session()["worker"] for ring in gw) == ["gw0", "gw1", "gw2"]
    dead, = [ring for ring in gw if "UNCONFIGURE" not in ring.kinds()]
    assert dead.tests()[-1] == ("test_a.py::test_many[5]", ["SETUP", "CALL"], None)
    tests = [test for ring in gw for test, _, _ in ring.tests()]
    assert len(tests) == len(set(tests)) == 12


FORKS = """
    import os, time
    import pytest
    def test_passes(): pass
    def test_fails(): assert False
    @pytest.mark.skip(reason="why")
    def test_skipped(): pass
    @pytest.mark.xfail(reason="known")
    def test_xfails(): assert False
    def test_crashes(): os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("args", [["--forked"], ["--forked", "-n1"]], ids=" ".join)
def test_forked(suite, args):
    suite.write("test_a.py", FORKS)
    plain, watched = suite.pytest(*args), suite.watched(*args)
    assert suite.outcomes(watched) == suite.outcomes(plain)
    forked = [ring for ring in watched.rings if ring.session()["forked"]]
    parent = [ring for ring in watched.rings if not ring.session()["forked"]][-1]
    assert parent.tests() == []
    assert {ring.session()["ppid"] for ring in forked} == {parent.pid}
    assert {os.path.getsize(ring.path) for ring in forked} == {4096 + 65536}
    (n, worker), = {(len(ring.tests()), ring.session()["worker"]) for ring in forked}
    assert n == 1 and worker == ("gw0" if "-n1" in args else None)
    base = json.loads(forked[0].records()[1].text)
    assert base["threads"] == [[forked[0].pid, "MainThread", False]]
    found = {ring.tests()[0][0].split("::")[1]: ring.tests()[0][1:] for ring in forked}
    report = ["SETUP", "CALL", "REPORT", "TEARDOWN", "END"]
    assert found == {
        "test_passes": (FULL, 0),
        "test_fails": (report, 1),
        "test_skipped": (["SETUP", "REPORT", "TEARDOWN", "END"], 3),
        "test_xfails": (report, 3),
        "test_crashes": (["SETUP", "CALL"], None),
    }


def test_a_fork_in_a_test(suite):
    suite.write("test_a.py", """
        import multiprocessing, os
        def test_fork():
            pid = os.fork()
            if not pid:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        def test_pool():
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(abs, [-1, 2]) == [1, 2]
    """)
    result = suite.watched()
    assert suite.outcomes(result)["passed"] == 2, result.out
    ring, = result.rings
    assert [(test[1], test[2]) for test in ring.tests()] == [(FULL, 0)] * 2


def test_a_fork_that_comes_back_to_pytest(suite):
    suite.write("test_a.py", """
        import os
        def test_fork():
            global pid
            pid = os.fork()
        def test_next():
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
        def test_last(): pass
    """)
    result = suite.watched("-p", "no:terminal")
    parent, child = result.rings
    assert [test for test, _, _ in parent.tests()] == [
        "test_a.py::test_fork", "test_a.py::test_next", "test_a.py::test_last"]
    assert {tuple(kinds) for _, kinds, _ in parent.tests()} == {tuple(FULL)}
    assert child.session()["forked"] and child.session()["ppid"] == parent.pid
    # it begins with the test in which it was forked
    assert child.tests()[0] == ("test_a.py::test_fork", ["SETUP", "TEARDOWN", "END"], 0)
    assert [test for test, _, _ in child.tests()] == [test for test, _, _ in parent.tests()]


def test_a_forked_child_is_asked_by_itself(suite):
    suite.write("test_a.py", """
        import time
        def test_hangs():
            open("ready", "w").close()
            time.sleep(1000)
        def test_next(): pass
    """)
    run = suite.new_run()
    process = suite.start("--forked", run=run)
    suite.wait_for(lambda: os.path.exists(suite.path("ready")), process)
    child = [ring for ring in run.rings() if ring.session()["forked"]][-1]
    child.ask(1, 2)
    suite.wait_for(lambda: os.kill(child.pid, 45) or not child.asked(), process)
    result = suite.finish(process, run)
    # pytest-forked 1.7 and pytest 9 do not get on; what the child did is in its ring
    child, other = [ring for ring in result.rings if ring.session()["forked"]]
    assert child.tests() == [("test_a.py::test_hangs", [
        "SETUP", "CALL", "INTERRUPTED", "REPORT", "TEARDOWN", "END"], 1)]
    assert [r.text for r in child.records() if r.kind == "REPORT"] == [
        "failed\nFailed: too long, says the watcher"]
    assert other.tests() == [("test_a.py::test_next", FULL, 0)]


PYTESTER = """
    import os, subprocess, sys
    import pytest
    pytest_plugins = ["pytester"]
    INNER = "def test_inner(): pass"

    def test_in_process(pytester):
        pytester.makepyfile(INNER)
        result = pytester.runpytest_inprocess("-v")
        result.assert_outcomes(passed=1)
        assert "hangscope" not in result.stdout.str()

    def test_subprocess(pytester):
        pytester.makepyfile(INNER)
        pytester.runpytest_subprocess("-v").assert_outcomes(passed=1)

    def test_in_process_xdist(pytester):
        pytester.makepyfile('''
            import sys
            def test_inner():
                assert not [name for name in sys.modules if "hangscope" in name]
                assert not [path for path in sys.path if "hangscope-test" in path]
        ''')
        pytester.runpytest_inprocess("-n1").assert_outcomes(passed=1)

    def test_plain_subprocess(tmp_path):
        (tmp_path / "test_inner.py").write_text(INNER)
        subprocess.run([sys.executable, "-m", "pytest", str(tmp_path)], check=True)

    def test_main(tmp_path):
        (tmp_path / "test_inner2.py").write_text(INNER)
        assert pytest.main([str(tmp_path), "-p", "no:cacheprovider"]) == 0

    def test_inner_fork():
        pid = os.fork()
        if not pid:
            os._exit(pytest.main(["-q", "--version"]))
        assert os.waitpid(pid, 0)[1] == 0

    def test_after(): pass
"""


@pytest.mark.parametrize("args", [[], ["-n1"]], ids=["alone", "worker"])
def test_runs_inside_of_tests_are_not_seen(suite, args):
    suite.write("test_a.py", PYTESTER)
    result = suite.watched(*args)
    assert suite.outcomes(result) == {"passed": 7}, result.out
    ring = result.rings[-1]
    assert len(result.rings) == 1 + len(args)
    assert [(kinds, flags) for _, kinds, flags in ring.tests()] == [(FULL, 0)] * 7
    assert [test for test, _, _ in ring.tests()][-1] == "test_a.py::test_after"


def test_two_runs_of_one_process(suite):
    suite.write("test_a.py", "def test_a(): pass\n")
    suite.write("run.py", """
        import sys, pytest
        sys.exit(pytest.main(["-p", "no:cacheprovider"]) or pytest.main(["-p", "no:cacheprovider"]))
    """)
    result = suite.watched(command=[sys.executable, "run.py"])
    assert result.code == 0
    assert len(result.rings[0].tests()) == 1


@pytest.mark.parametrize("python", [["-I"], ["-E"]], ids=" ".join)
def test_where_the_environment_is_ignored_nothing_breaks(suite, python):
    suite.write("test_a.py", "def test_a(): pass\n")
    plain, watched = suite.pytest(python=python), suite.watched(python=python)
    assert (watched.code, watched.err) == (plain.code, plain.err) == (0, "")
    assert watched.rings == []


def test_no_autoload(suite):
    suite.write("test_a.py", """
        import sys
        def test_a():
            assert not [name for name in sys.modules if "hangscope" in name]
    """)
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plain, watched = suite.pytest(env=env), suite.watched(env=env)
    assert support.without_times(watched.out) == support.without_times(plain.out)
    assert watched.rings == []
    named = suite.watched("-p", "hangscope", env=env)
    assert support.without_times(named.out) == support.without_times(plain.out)
    assert len(named.rings) == 1


def test_named_beside_the_entry_point(suite):
    suite.write("test_a.py", "def test_a(): pass\n")
    result = suite.watched("-p", "hangscope")
    assert result.code == 0 and len(result.rings) == 1
    assert result.rings[0].tests() == [("test_a.py::test_a", FULL, 0)]


def test_switched_off_by_name(suite):
    suite.write("test_a.py", "def test_a(): pass\n")
    result = suite.watched("-p", "no:hangscope")
    assert result.code == 0 and result.rings == []


def test_a_user_interrupts_the_session(suite):
    suite.write("test_a.py", """
        import time
        def test_hangs():
            open("ready", "w").close()
            time.sleep(1000)
        def test_next(): pass
    """)
    run = suite.new_run()
    process = suite.start(run=run)
    suite.wait_for(lambda: os.path.exists(suite.path("ready")), process)
    os.kill(process.pid, signal.SIGINT)
    result = suite.finish(process, run)
    assert result.code == 2 and "KeyboardInterrupt" in result.out
    assert result.rings[0].tests() == [("test_a.py::test_hangs", ["SETUP", "CALL"], None)]
    assert [r.text for r in result.rings[0].records() if r.kind == "FINISH"] == ["2"]
