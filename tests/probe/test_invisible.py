"""With the plugin pytest prints, does and shows to tests what it does without."""
import json
import os
import sys

import pytest
import support

MIXED = """
    import os, sys, threading, unittest, warnings
    import pytest

    @pytest.fixture(scope="module")
    def resource():
        yield 1

    def test_passes(resource):
        print("out of test")

    def test_fails(resource):
        assert 1 == 2

    @pytest.mark.skip(reason="for a reason")
    def test_skipped():
        pass

    @pytest.mark.xfail(reason="known")
    def test_xfails():
        assert False

    @pytest.mark.xfail
    def test_xpasses():
        pass

    @pytest.mark.parametrize("value", [1, "a\\nb", "\\u00e9", "\\U0001f600"])
    def test_parameters(value):
        pass

    @pytest.fixture
    def broken():
        raise RuntimeError("in setup")

    def test_setup_error(broken):
        pass

    @pytest.fixture
    def broken_later():
        yield
        raise RuntimeError("in teardown")

    def test_teardown_error(broken_later):
        pass

    def test_exits():
        sys.exit(3)

    class TestUnit(unittest.TestCase):
        def test_method(self):
            self.assertEqual(1, 1)

        def test_sub(self):
            with self.subTest("one"):
                pass
"""
WARNS = """
    import warnings
    def test_warns():
        warnings.warn("a warning")
"""
BOTH = [
    ["-v", "-rA"],
    ["--co"],
    ["-v", "-W", "error"],
    ["--strict-markers", "--strict-config", "-v"],
    ["-x", "--tb=long"],
    ["--tb=native"],
    ["--tb=short", "--durations=3", "-vv"],
    ["--setup-show", "--deselect", "test_mixed.py::test_fails"],
    ["-VV"],
    ["--help"],
    ["-s", "-p", "no:terminal"],
    ["--junitxml=report.xml", "-q"],
    ["--no-such-option"],
    ["-p", "no:hangscope"],
]


@pytest.mark.parametrize("args", BOTH, ids=" ".join)
def test_same_output(suite, args):
    suite.write("test_mixed.py", MIXED)
    suite.write("sub/test_warns.py", WARNS)
    suite.write("sub/conftest.py", "")
    suite.write("test_broken.py", "import no_such_module\n")
    plain = suite.pytest(*args)
    watched = suite.watched(*args)
    assert support.without_times(watched.out) == support.without_times(plain.out)
    assert watched.err == plain.err
    assert watched.code == plain.code


@pytest.mark.parametrize("option", ["python_files = *.py", "filterwarnings = error"])
def test_same_output_with_options_of_the_project(suite, option):
    suite.write("pytest.ini", "[pytest]\naddopts = -v --strict-markers\n%s\n" % option)
    suite.write("test_mixed.py", MIXED)
    plain, watched = suite.pytest(), suite.watched()
    assert support.without_times(watched.out) == support.without_times(plain.out)
    assert (watched.err, watched.code) == (plain.err, plain.code)
    assert len(watched.rings) == 1


LOOKS = r"""
    import atexit, importlib.metadata, json, os, re, signal, sys, threading, warnings

    def look(when, config):
        pid = "/proc/self/"
        fds = []
        for fd in sorted(os.listdir(pid + "fd"), key=int):
            try:
                target = os.readlink(pid + "fd/" + fd)
                target = target.replace("/%d/" % os.getpid(), "/PID/")
                fds.append(re.sub(r"\[\d+\]|#\d+", "N", target))
            except OSError:
                pass
        signals = {}
        for number in range(1, 65):
            try:
                signals[number] = repr(signal.getsignal(number)).split(" at 0x")[0]
            except ValueError:
                pass
        seen = {
            "environ": dict(os.environ),
            "path": sys.path,
            "importers": sorted(sys.path_importer_cache),
            "modules": sorted(sys.modules),
            "threads": [thread.name for thread in threading.enumerate()],
            "tasks": len(os.listdir(pid + "task")),
            "fds": fds,
            "signals": signals,
            "filters": [str(entry) for entry in warnings.filters],
            "packages": sorted(str(d.metadata["Name"]) for d in importlib.metadata.distributions()),
            "trace": str(sys.gettrace()) + str(sys.getprofile()),
            "dists": [str(dist.project_name) for _, dist in config.pluginmanager.list_plugin_distinfo()],
            "plugins": [n for n, _ in config.pluginmanager.list_name_plugin() if not n.isdigit()],
            "exits": atexit._ncallbacks(),
        }
        with open("seen-%s.json" % when, "w") as file:
            json.dump(seen, file)
"""
CONFTEST = """
    import looks
    class NoConfig:
        class pluginmanager:
            list_plugin_distinfo = list_name_plugin = staticmethod(lambda: [])
    looks.look("conftest", NoConfig)
    def pytest_configure(config):
        looks.look("configure", config)
    def pytest_unconfigure(config):
        looks.look("unconfigure", config)
"""


def seen(suite, when):
    with open(suite.path("seen-%s.json" % when)) as file:
        found = json.load(file)
    found["environ"].pop("PYTEST_XDIST_TESTRUNUID", None)  # another one in each run
    found["modules"] = [name for name in found["modules"] if name != "mmap"]
    return found


@pytest.mark.parametrize("distributed", [False, True], ids=["alone", "worker"])
def test_code_of_the_project_sees_nothing(suite, distributed):
    suite.write("looks.py", LOOKS)
    suite.write("conftest.py", CONFTEST)
    suite.write("test_look.py", """
        import looks
        def test_look(request):
            looks.look("test", request.config)
    """)
    args = ["-n1"] if distributed else []
    # user's PYTHONPATH stays as it is
    env = {"PYTHONPATH": suite.path("")}
    whens = ["conftest", "configure", "test"] + ["unconfigure"] * (not distributed)
    assert suite.pytest(*args, env=env).code == 0
    plain = {when: seen(suite, when) for when in whens}
    run = suite.new_run()
    watched = suite.watched(*args, run=run, env=run.environment(pythonpath=suite.path("")))
    assert watched.code == 0, watched.out
    assert len(watched.rings) == 1 + distributed
    for when in whens:
        found = seen(suite, when)
        handler = found["signals"].pop("45")
        assert plain[when]["signals"].pop("45") == "<Handlers.SIG_DFL: 0>"
        assert ("Interrupter" in handler) == (when in ("test", "unconfigure"))
        if sys.version_info < (3, 13):  # mmap holds a duplicate
            rings = [fd for fd in found["fds"] if fd.startswith(run.path)]
            assert len(rings) == 1
            found["fds"].remove(rings[0])
        if when in ("test", "unconfigure") and os.stat("/proc/self/fd").st_size:
            # the two that are held, see test_held.py; the highest
            assert found["fds"][-2:] == ["/proc/PID/task", "/proc/PID/fd"]
            del found["fds"][-2:]
        assert found == plain[when]
        assert run.path not in json.dumps(found)


def test_no_other_plugin_of_the_user_is_hidden(suite):
    suite.write("test_a.py", "def test_a(): pass\n")
    result = suite.watched("-n1")
    assert "plugins: " in result.out and "hangscope" not in result.out
    assert "xdist" in [line for line in result.out.splitlines() if "plugins: " in line][0]


def test_a_folder_that_is_not_spelled_in_the_shortest_way(suite):
    suite.write("test_a.py", """
        import os
        def test_a():
            assert os.environ["PYTHONPATH"] == ":/elsewhere:"
    """)
    run = suite.new_run()
    env = {"PYTHONPATH": run.path.replace("/", "//") + "/rings/../probe::/elsewhere:"}
    result = suite.watched(run=run, env=env)
    assert result.code == 0, result.out
    assert len(result.rings) == 1


def test_a_users_own_tox_override_stays(suite):
    suite.write("test_a.py", """
        import os
        def test_a():
            assert os.environ["TOX_OVERRIDE"] == "testenv.pass_env+=PYTHONPATH,HANGSCOPE_*;a=b"
    """)
    run = suite.new_run()
    env = {"TOX_OVERRIDE": support.TOX_OVERRIDE + ";a=b"}
    assert suite.watched(run=run, env=env).code == 0


def test_full_traceback_holds_no_frame_of_ours(suite):
    suite.write("test_mixed.py", MIXED)
    result = suite.watched("--full-trace", "-k", "fails or error")
    assert "_hangscope_probe.py" not in result.out  # pluggy's arguments hold the object's name
    assert len(result.rings) == 1


@pytest.mark.parametrize("file", ["METADATA", "entry_points.txt"])
def test_distribution_has_the_name_that_the_binary_expects(file):
    with open(os.path.join(support.SOURCE, file)) as opened:
        text = opened.read()
    wanted = {"METADATA": "Name: hangscope_probe\nVersion: 0\n",
              "entry_points.txt": "[pytest11]\nhangscope = _hangscope_probe\n"}
    assert wanted[file] in text
