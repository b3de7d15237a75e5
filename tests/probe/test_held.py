"""The two descriptors that the plugin holds: out of the way, not counted, never mistaken."""
import json
import os
import resource
import sys

import pytest
import support

HOLDS = os.stat("/proc/self/fd").st_size > 0  # since Linux 6.2
needs_them = pytest.mark.skipif(not HOLDS, reason="before Linux 6.2 none are held")

# For the suites: lists what is open, the plugin's apart; note() writes it down for a test.
OPENED = r"""
    import json, os, re

    def links():
        found = {}
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                found[fd] = os.readlink("/proc/self/fd/%d" % fd)
            except OSError:  # the listing's own
                pass
        return found

    def ours():
        names = re.compile(r"/proc/\d+/(task|fd)( \(deleted\))?$")
        return {fd: name for fd, name in links().items() if names.match(name)}

    def note(serial, theirs=0):
        line = [os.getpid(), serial, len(links()) - len(ours()) + theirs, ours()]
        with open("noted", "a") as file:
            file.write(json.dumps(line) + "\n")
"""


def noted(suite):
    """Of (pid, serial): number of descriptors but ours, and ours by number."""
    with open(suite.path("noted")) as file:
        lines = [json.loads(line) for line in file]
    return {(pid, serial): (count, ours) for pid, serial, count, ours in lines}


def same_counts(suite, result):
    """The ends of tests have the counts that were noted in them. Returns what was."""
    found = noted(suite)
    assert found, result
    ends = {(ring.pid, r.serial): r.fds
            for ring in result.rings for r in ring.records() if r.kind == "END"}
    assert {key: ends[key] for key in found} == {key: count for key, (count, _) in found.items()}
    return found


def pair(pid):
    return ["/proc/%d/fd" % pid, "/proc/%d/task" % pid]


def limited(soft):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("soft, lowest", [(1023, None), (1024, 1008), (4096, 4080), (5000, 4080)])
def test_where_they_are(suite, soft, lowest):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < soft:
        pytest.skip("the hard limit of descriptors is %d" % hard)
    suite.write("opened.py", OPENED)
    suite.write("test_a.py", """
        import fcntl, os
        from opened import note, ours
        def test_number():
            fd = os.open("/dev/null", os.O_RDONLY)
            os.close(fd)
            with open("number", "w") as file:
                file.write(str(fd))
            note(1)
        def test_no_byte():
            for fd in ours():
                assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
                assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
                for call in [lambda: os.read(fd, 1), lambda: os.write(fd, b"x"), lambda: os.listdir(fd)]:
                    try:
                        call()
                    except OSError:
                        continue
                    assert False
    """)
    numbers = []
    for run in [suite.pytest, suite.watched]:
        suite.write("noted", "")
        result = run(preexec=limited(soft))
        assert suite.outcomes(result) == {"passed": 2}, result.out
        with open(suite.path("number")) as file:
            numbers.append(int(file.read()))
    ring, = result.rings
    _, ours = same_counts(suite, result)[ring.pid, 1]
    expected = [] if lowest is None or not HOLDS else [lowest, lowest + 1]
    assert [int(fd) for fd in ours] == expected
    assert sorted(ours.values()) == (pair(ring.pid) if expected else [])
    # before 3.13 mmap holds a duplicate of the ring's
    assert numbers[1] - numbers[0] == (sys.version_info < (3, 13))


@pytest.mark.parametrize("taken", [15, 16])
def test_there_is_no_room(suite, taken):
    suite.write("opened.py", OPENED)
    suite.write("conftest.py", """
        import os
        null = os.open("/dev/null", os.O_RDONLY)
        for fd in range(1008, 1008 + %d):
            os.dup2(null, fd)
    """ % taken)
    suite.write("test_a.py", "from opened import note\ndef test_a(): note(1)\n")
    result = suite.watched(preexec=limited(1024))
    (_, ours), = same_counts(suite, result).values()
    assert ours == {} and result.code == 0


SCENES = {
    "both are closed": """
        for fd in ours():
            os.close(fd)
    """,
    "one is closed": """
        os.close(max(ours()))
    """,
    "the other one is closed": """
        os.close(min(ours()))
    """,
    "files are in their place": """
        for fd in ours():
            keep(null, fd)
    """,
    "a file is in the place of one": """
        keep(null, max(ours()))
    """,
    "a file is in the place of the other one": """
        keep(null, min(ours()))
    """,
    "both folders of another process": """
        take_for_ours("fd", "task")
    """,
    "another process's descriptors": """
        take_for_ours("fd")
    """,
    "another process's threads": """
        take_for_ours("task")
    """,
    "the limit is lowered": """
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    """,
    "a child closes them": """
        pid = os.fork()
        if not pid:
            os.closerange(3, 1 << 16)
            os._exit(0)
        os.waitpid(pid, 0)
    """,
    "closed by a thread that stays": """
        stay = threading.Event()
        def run():
            os.close(max(ours()))
            done.set()
            stay.wait()
        threading.Thread(target=run, daemon=True).start()
        done.wait()
    """,
}


@needs_them
@pytest.mark.parametrize("scene", SCENES)
def test_counts_after(suite, scene):
    suite.write("opened.py", OPENED)
    suite.write("test_a.py", """
        import atexit, os, re, resource, subprocess, sys, threading
        from opened import note, ours

        null = os.open("/dev/null", os.O_RDWR)
        done = threading.Event()
        kept = []
        theirs = 0
        other = None

        def keep(old, fd):
            os.dup2(old, fd)
            kept.append((fd, os.fstat(old)[1:3]))

        OTHER = "import os, sys, threading; " \\
            "[threading.Thread(target=threading.Event().wait, daemon=True).start() for _ in range(3)]; " \\
            "[os.open('/dev/null', 0) for _ in range(99)]; print(flush=True); sys.stdin.read()"

        def take_for_ours(*names):
            global theirs, other
            other = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE)
            other.stdout.readline()
            for fd, name in ours().items():
                if name.rpartition("/")[2] in names:
                    folder = os.open(re.sub("[0-9]+", str(other.pid), name), os.O_PATH)
                    keep(folder, fd)
                    os.close(folder)
            theirs = len(names)

        def at_end():
            for fd, identity in kept:
                assert os.fstat(fd)[1:3] == identity
            if other is not None:
                other.kill()
                other.communicate()
            with open("kept", "w") as file:
                file.write(str(len(kept)))
        atexit.register(at_end)

        def test_before():
            assert len(ours()) == 2
            note(1)
        def test_scene():
            global theirs
            %s
            note(2, theirs)
        def test_next():
            note(3, theirs)
        def test_leak():
            global file
            file = open("/dev/null")
            note(4, theirs)
    """ % SCENES[scene].strip().replace("\n", "\n    "))
    result = suite.watched()
    assert suite.outcomes(result) == {"passed": 4}, result.out
    assert len(same_counts(suite, result)) == 4
    threads = {r.os_threads for r in result.rings[0].records() if r.kind == "END"}
    assert threads == ({1, 2} if "thread that stays" in scene else {1})
    with open(suite.path("kept")) as file:
        assert (int(file.read()) > 0) == ("place" in scene or "another" in scene)
    assert result.err == ""


FORKS = """
    import os
    from opened import note, ours

    children = []
    def fork():
        pid = os.fork()
        if pid:
            children.append(pid)
        else:
            children.clear()
        return pid

    def test_fork():
        global null
        {before}
        fork()
    def test_again():
        global serial
        serial = 3 if fork() else 2  # of the next test: a child's begin with the one of the fork
    def test_last():
        note(serial)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
"""


@needs_them
def test_children_hold_their_own(suite):
    suite.write("opened.py", OPENED)
    suite.write("test_a.py", FORKS.format(before="pass"))
    result = suite.watched("-p", "no:terminal")
    assert result.code == 0 and len(result.rings) == 4
    found = same_counts(suite, result)
    assert len(found) == 4
    for (pid, _), (_, ours) in found.items():
        assert sorted(ours.values()) == pair(pid)
    assert len({tuple(ours) for _, ours in found.values()}) == 1  # the same numbers for all
    assert len({count for count, _ in found.values()}) == 1


@needs_them
def test_children_close_nothing_of_a_test(suite):
    suite.write("opened.py", OPENED)
    suite.write("conftest.py", """
        import os
        number = []
        def pytest_sessionfinish():
            for fd in number:
                assert os.path.samestat(os.fstat(fd), os.stat("/dev/null"))
    """)
    suite.write("test_a.py", FORKS.format(before="""
        import conftest
        conftest.number += ours()
        null = os.open("/dev/null", os.O_RDONLY)
        for fd in conftest.number:
            os.dup2(null, fd)
    """.strip()))
    result = suite.watched("-p", "no:terminal")
    assert result.code == 0 and len(result.rings) == 4
    for (pid, _), (_, ours) in same_counts(suite, result).items():
        assert sorted(ours.values()) == ([] if pid == result.rings[0].pid else pair(pid))


@needs_them
def test_a_child_whose_parent_has_ended(suite):
    """Its /proc/PID/fd can be asked no more; it is not counted."""
    suite.write("opened.py", OPENED)
    suite.write("test_a.py", """
        import os, time
        from opened import note

        def test_fork():
            global pid
            pid = os.fork()
        def test_orphan():
            global pid
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
            else:
                parent = os.getpid()
                if os.fork():
                    os._exit(0)
                while os.path.exists("/proc/%d" % parent):
                    time.sleep(0.001)
                pid = 0
        def test_next():
            note(3 if pid else 2)
        def test_last():
            note(4 if pid else 3)
    """)
    result = suite.watched("-p", "no:terminal")
    assert result.code == 0 and len(result.rings) == 3
    first, child, orphan = result.rings
    found = same_counts(suite, result)
    assert {pid for pid, _ in found} == {first.pid, orphan.pid}
    assert list(found[orphan.pid, 2][1].values()) == ["/proc/%d/fd" % child.pid]
    assert found[orphan.pid, 2] == found[orphan.pid, 3]
    assert found[orphan.pid, 2][0] == found[first.pid, 3][0]


@needs_them
@pytest.mark.parametrize("args", [["--forked"], ["--forked", "-n1"]], ids=" ".join)
def test_forked(suite, args):
    suite.write("opened.py", OPENED)
    suite.write("test_a.py", """
        import pytest
        from opened import note
        @pytest.mark.parametrize("n", range(3))
        def test_a(n): note(1)
    """)
    unwatched = suite.pytest(*args)
    with open(suite.path("noted")) as file:
        plain = [json.loads(line)[2] for line in file]
    suite.write("noted", "")
    result = suite.watched(*args)
    assert suite.outcomes(result) == suite.outcomes(unwatched)
    found = same_counts(suite, result)
    # pytest-forked itself leaves two open with each test
    ring = sys.version_info < (3, 13)
    assert [count for count, _ in found.values()] == [count + ring for count in plain]
    for (pid, _), (_, ours) in found.items():
        assert sorted(ours.values()) == pair(pid)


@needs_them
def test_they_are_closed_when_pytest_is_done(suite):
    suite.write("opened.py", OPENED)
    suite.write("test_a.py", "from opened import note\ndef test_a(): note(1)\n")
    suite.write("run.py", """
        import os, pytest
        code = pytest.main(["-p", "no:cacheprovider"])
        from opened import ours
        assert ours() == {}
        os._exit(code)
    """)
    result = suite.watched(command=[sys.executable, "run.py"])
    assert result.code == 0, result
    (_, ours), = same_counts(suite, result).values()
    assert sorted(ours.values()) == pair(result.rings[0].pid)
