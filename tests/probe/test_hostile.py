"""Tests and machines that make it hard; and what of it the plugin must not make worse."""
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import support

FULL = ["SETUP", "CALL", "TEARDOWN", "END"]


def test_all_descriptors_are_closed_and_their_numbers_used_again(suite):
    suite.write("test_a.py", """
        import os
        def test_close():
            os.closerange(3, 4096)
            global files
            files = [open("file-%d" % n, "w") for n in range(300)]
            with open("count", "w") as file:
                file.write(str(len(os.listdir("/proc/self/fd")) - 2))  # its own, and the listing's
        def test_next():
            for number, file in enumerate(files):
                file.write("of the test %d" % number)
        def test_flush():
            for file in files[:150]:
                file.close()
    """)
    result = suite.watched("-s")
    ring, = result.rings
    assert ring.tests()[:3] == [
        ("test_a.py::test_close", FULL, 0),
        ("test_a.py::test_next", FULL, 0),
        ("test_a.py::test_flush", FULL, 0),
    ]
    assert result.code == suite.pytest("-s").code
    assert "FINISH" in ring.kinds()
    with open(suite.path("count")) as file:
        assert [r.fds for r in ring.records() if r.kind == "END"][0] == int(file.read())
    for number in range(300):
        with open(suite.path("file-%d" % number)) as file:
            assert file.read() == "of the test %d" % number


def test_what_a_test_may_do_to_its_process(suite):
    suite.write("test_a.py", """
        import os, resource, signal, sys, threading, time

        def test_chdir(): os.chdir("/")
        def test_handlers():
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
        def test_patches(monkeypatch):  # until after the record of the teardown
            def broken(*args, **kwargs): raise RuntimeError("patched")
            for name in ["stat", "getpid", "waitid", "listdir", "readlink", "open"]:
                monkeypatch.setattr(os, name, broken)
            for name in ["clock_gettime_ns", "monotonic_ns"]:
                monkeypatch.setattr(time, name, broken)
            monkeypatch.setattr(threading, "get_ident", broken)
            monkeypatch.setattr(signal, "getsignal", broken)
        def test_file_size():
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        def test_trace(): sys.settrace(lambda *_: None)
        def test_recursion(): sys.setrecursionlimit(200)
        def test_clear_environ():
            os.environ.clear()
            os.environ["PYTEST_CURRENT_TEST"] = ""  # pytest needs that one
        def test_last(): pass
    """)
    plain, watched = suite.pytest(), suite.watched()
    assert suite.outcomes(watched) == suite.outcomes(plain) == {"passed": 8}, plain.out
    assert (watched.code, watched.err) == (plain.code, plain.err)
    ring, = watched.rings
    assert [(kinds, flags) for _, kinds, flags in ring.tests()] == [(FULL, 0)] * 8
    last = [r for r in ring.records() if r.kind == "END"][-1]
    assert (last.threads, last.os_threads, last.children) == (1, 1, 0)


def test_the_users_handler_of_our_signal_stays(suite):
    suite.write("conftest.py", """
        import signal
        def theirs(*_): pass
        signal.signal(signal.SIGRTMIN + 11, theirs)
        def pytest_unconfigure():
            assert signal.getsignal(signal.SIGRTMIN + 11) is theirs
            assert signal.getsignal(signal.SIGRTMIN + 13) is theirs
    """)
    suite.write("test_a.py", """
        import signal
        from conftest import theirs
        def test_a(): pass
        def test_b(): signal.signal(signal.SIGRTMIN + 13, theirs)
    """)
    result = suite.watched()
    assert result.code == 0, result
    assert result.rings[0].session()["signal"] == signal.SIGRTMIN + 12


def test_pytest_on_another_thread(suite):
    suite.write("test_a.py", "def test_a(): pass\n")
    suite.write("run.py", """
        import os, threading, pytest
        codes = []
        run = lambda: codes.append(pytest.main(["-p", "no:cacheprovider"]))
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        os._exit(codes[0])
    """)
    result = suite.watched(command=[sys.executable, "run.py"])
    assert result.code == 0 and result.err == ""
    assert result.rings[0].session()["signal"] == 0
    assert result.rings[0].tests() == [("test_a.py::test_a", FULL, 0)]


def same_without_a_ring(suite, run, **kwargs):
    """The run is as it would be without us, and nothing was written."""
    suite.write("test_a.py", "def test_a(): pass\ndef test_b(): assert False\n")
    args = ["-W", "error", "-v"]
    plain, watched = suite.pytest(*args, **kwargs), suite.watched(*args, run=run, **kwargs)
    assert support.without_times(watched.out) == support.without_times(plain.out)
    assert (watched.code, watched.err) == (plain.code, plain.err) == (1, "")
    return watched


def test_the_run_folder_is_gone(suite):
    run = suite.new_run()
    shutil.rmtree(run.path + "/rings")
    same_without_a_ring(suite, run)


def test_a_file_is_in_place_of_the_folder(suite):
    run = suite.new_run()
    os.rmdir(run.path + "/rings")
    open(run.path + "/rings", "w").close()
    same_without_a_ring(suite, run)


def test_only_the_probe_is_there(suite):
    run = suite.new_run()
    env = run.environment()
    del env["HANGSCOPE_RUN"]
    suite.write("test_a.py", """
        import os, sys
        def test_a():
            assert "PYTHONPATH" not in os.environ
            assert not [name for name in sys.modules if "hangscope" in name]
    """)
    result = suite.pytest(env=env)
    assert result.code == 0 and "hangscope" not in result.out
    assert run.rings() == []


def test_files_may_not_grow(suite):
    run = suite.new_run()

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    watched = same_without_a_ring(suite, run, preexec=no_large_files)
    assert os.listdir(watched.run.path + "/rings") == []


def test_files_may_grow_a_little(suite):
    run = suite.new_run()

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500000, 500000))

    ring, = same_without_a_ring(suite, run, preexec=no_large_files).rings
    assert os.path.getsize(ring.path) == 4096 + (1 << 17)
    assert [flags for _, _, flags in ring.tests()] == [0, 1]


@pytest.mark.parametrize("free, size", [(0, None), (300, 1 << 17)])
def test_a_full_file_system(suite, free, size):
    """A small tmpfs in a mount namespace; needs the right to make one."""
    unshare = shutil.which("unshare")
    options = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    if not unshare or subprocess.call([unshare, *options, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("no mount namespace can be made here")
    run = suite.new_run()
    suite.write("test_a.py", "def test_a(): pass\ndef test_b(): assert False\n")
    script = textwrap.dedent("""
        set -e
        mount -t tmpfs -o size=600k none "$1/rings"
        [ "$2" = 0 ] && fill=600 || fill=$((600 - $2))
        head -c "${fill}k" /dev/zero > "$1/rings/filler" 2>/dev/null || true
        shift 2
        code=0
        "$@" || code=$?
        stat -c 'RING %s' "$HANGSCOPE_RUN"/rings/*.ring 2>/dev/null || echo 'RING none'
        exit $code
    """)
    args = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "-v"]
    command = [unshare, *options, "sh", "-c", script, "sh", run.path, str(free), *args]
    watched = suite.finish(suite.start(run=run, command=command))
    plain = suite.pytest("-W", "error", "-v")
    out, _, ring = support.without_times(watched.out).rpartition("RING ")
    assert out == support.without_times(plain.out)
    assert (watched.code, watched.err) == (plain.code, plain.err)
    assert ring.strip() == ("none" if size is None else str(4096 + size))


def test_no_proc(suite):
    """With an empty folder mounted over /proc."""
    unshare = shutil.which("unshare")
    if not unshare or os.geteuid() or subprocess.call([unshare, "--mount", "true"]):
        pytest.skip("no mount namespace can be made here")
    suite.write("test_a.py", "def test_a(): pass\n")
    run = suite.new_run()
    script = 'mount -t tmpfs none /proc && exec "$@"'
    args = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"]
    command = [unshare, "--mount", "sh", "-c", script, "sh", *args]
    plain = suite.finish(suite.start(command=command))
    watched = suite.finish(suite.start(run=run, command=command), run)
    assert support.without_times(watched.out) == support.without_times(plain.out)
    assert (watched.code, watched.err) == (plain.code, plain.err)
    assert watched.rings == []


@pytest.mark.parametrize("replaced", [False, True], ids=["held", "replaced"])
def test_proc_goes_away_in_a_test(suite, replaced):
    if os.geteuid():
        pytest.skip("chroot needs root")
    suite.write("test_a.py", """
        import os, time
        def test_chroot(tmp_path):
            other = os.open("/proc", os.O_RDONLY)
            for fd in os.listdir("/proc/self/fd") * %d:
                path = "/proc/self/fd/" + fd
                if os.path.islink(path) and os.readlink(path).startswith("/proc/"):
                    os.dup2(other, int(fd))
            os.close(other)
            os.chroot(str(tmp_path))
            time.sleep(0.002)  # after 1 ms threads are counted at the teardown, too
        def test_next(): pass
    """ % replaced)
    plain, watched = suite.pytest("-q"), suite.watched("-q")
    assert watched.code == plain.code
    ring, = watched.rings
    assert [(kinds, flags) for _, kinds, flags in ring.tests()] == [(FULL, 0)] * 2
    counts = [(r.threads, r.os_threads, r.children, r.fds)
              for r in ring.records() if r.kind == "END"]
    teardown = [r for r in ring.records() if r.kind == "TEARDOWN"][0]
    if os.stat("/proc/self/fd").st_size and not replaced:  # the plugin holds its folders of /proc
        before = [r for r in ring.records() if r.kind == "SETUP"][0]
        assert counts == [(1, 1, 0, before.fds)] * 2
        assert teardown.os_threads == 1
    else:
        assert counts == [(1, None, None, None)] * 2
        assert teardown.os_threads is None
