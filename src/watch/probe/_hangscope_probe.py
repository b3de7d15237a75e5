"""hangscope's pytest plugin: tells `hangscope watch` which test this process is at.

`hangscope watch` puts this file's folder first in PYTHONPATH and names its run folder in
HANGSCOPE_RUN; pytest finds the plugin by its entry point. It writes records into a ring file
that the watcher polls, and fails the running test when the watcher asks for that. The layout
of the ring is described in docs/watch-protocol.md.

The tests must not be able to tell that it is there. So: no output, no warning, no exception, no
thread; once loaded it takes itself out of sys.path, sys.modules, the environment and pytest's
list of plugins. If anything is not as it should be, it does nothing at all. Open are two
descriptors (see "held descriptors"), from the session's start to pytest's end, at high numbers
and not counted with those of the tests; and before Python 3.13 the one that mmap keeps.
Functions of the standard library are bound here, before a test can patch them.
"""
import functools
import json
import os
import re
import signal
import struct
import sys
import threading
from os import P_ALL, WEXITED, WNOHANG, WNOWAIT, fstat, getpid, listdir, stat, waitid
from os import close as os_close, open as os_open, sysconf
from signal import getsignal
from threading import _active, get_ident, get_native_id
from time import monotonic_ns  # CLOCK_MONOTONIC on Linux

import pytest

try:
    import mmap
except ImportError:  # a build of Python without it: without us, then
    mmap = None
try:
    known = "fcntl" in sys.modules
    from fcntl import F_DUPFD_CLOEXEC, fcntl
    if not known:
        del sys.modules["fcntl"]  # the tests' Python has not loaded it
except ImportError:
    fcntl = None

INTERRUPTS = "interrupts"  # a file of the run folder: the watcher may ask us to fail a test
FOLDER = os.path.dirname(os.path.abspath(__file__))
TOX_OVERRIDE = "testenv.pass_env+=PYTHONPATH,HANGSCOPE_*"  # as the watcher sets it

SESSION, COLLECT, COLLECTED, SETUP, CALL, TEARDOWN, REPORT, END, BIRTHS = range(1, 10)
PDB_ENTER, PDB_LEAVE, FINISH, UNCONFIGURE, INTERRUPTED = range(10, 15)

HEADER = 4096
CAPACITY = 1 << 20
SMALL_CAPACITY = 1 << 17  # when the file system is full
FORKED_CAPACITY = 1 << 16
RECORD = struct.Struct("<IIQI20sBBH")  # length, seq, time, serial, counts, kind, flags, 0
COUNTS = struct.Struct("<IIIII")  # threads, os_threads, interpreters, children, fds
MAX_TEXT = (1 << 14) - RECORD.size
TOTAL = 64 // 8  # index of the header's `total`, in words of 64 bits
REQUEST = struct.Struct("<QII")
REQUEST_AT = 128
MAX_REQUEST_TEXT = 3800

NOT_COUNTED = 0xFFFFFFFF
NOTHING_COUNTED = COUNTS.pack(*[NOT_COUNTED] * 5)
ANY_CHILD = WEXITED | WNOHANG | WNOWAIT  # for waitid: asks, and takes nothing
NO_CHILDREN = []
USUAL_LIMIT = 1024  # of descriptors; with less room for them we hold none
HIGHEST_LIMIT = 4096  # the kernel's table of descriptors reaches to the highest, in each fork, too
BELOW_LIMIT = 16  # descriptors
MAX_LISTED = 32  # threads and such in one record, and
MAX_NAME = 64  # characters of a thread's name in it, so that it stays below MAX_TEXT
SAME = 1000000  # ns: so short after the end of a test its counts still hold
NOTHING_STARTS = 1000000  # ns: in less hardly a process was started; what else was, the end counts
PASSED, FAILED, ERROR, SKIPPED = range(4)


def _bytes(text):
    """UTF-8 of a foreign text; what UTF-8 cannot hold (a path that is no UTF-8) as escapes."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > MAX_TEXT:
        data = data[:MAX_TEXT].decode("utf-8", "ignore").encode("utf-8")
    return data


def _json(value):
    # ensure_ascii would write a lone surrogate as an escape that strict parsers refuse
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


# --- the ring


def _start_ticks():
    """When this process began, in clock ticks: with the pid its identity."""
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


# What runs at each test is written to touch little: between two tests the processor's caches
# are full of pytest, and each function and object costs more than what it does.
_pack_into = RECORD.pack_into  # names of the module are looked up faster
RECORD_SIZE = RECORD.size


class Ring:
    """A file of records, shared with the watcher. Older records are overwritten by newer ones."""

    def __init__(self, run, capacity):
        ticks = _start_ticks()
        path = "%s/rings/%d-%d.ring" % (run, getpid(), ticks)
        try:
            self.map = self._create(path, HEADER + capacity)
        except OSError:
            if capacity <= SMALL_CAPACITY:
                raise
            capacity = SMALL_CAPACITY
            self.map = self._create(path, HEADER + capacity)
        self.at = HEADER  # where the next record goes
        self.end = HEADER + capacity
        self.seq = 0
        self.passed = -HEADER  # what to add to `at` for the number of bytes ever written
        self.words = memoryview(self.map)[:HEADER].cast("Q")
        struct.pack_into("<I", self.map, 8, getpid())
        struct.pack_into("<QQ", self.map, 16, ticks, capacity)
        self.map[:8] = b"hangscp1"

    @staticmethod
    def _create(path, size):
        # Not an open file that is written to: a test that closes all descriptors and opens
        # files of its own would get our records into them.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)  # else a full disk is a SIGBUS later on
            if sys.version_info >= (3, 13):
                return mmap.mmap(fd, size, trackfd=False)
            return mmap.mmap(fd, size)  # keeps a duplicate of fd, closed on exec
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    def mark(self, now, serial, counts, kind, flags):
        """A record without a text: most are."""
        at = self.at
        after = at + RECORD_SIZE
        if after < self.end:
            _pack_into(self.map, at, RECORD_SIZE, self.seq, now, serial, counts, kind, flags, 0)
            self.at = after
            self.seq += 1
            self.words[TOTAL] = after + self.passed  # as in put()
        else:
            self.put(now, serial, counts, kind, flags, b"")

    def put(self, now, serial, counts, kind, flags, text):
        at = self.at
        length = RECORD_SIZE + len(text)
        after = at + length
        if after < self.end:
            _pack_into(self.map, at, length, self.seq, now, serial, counts, kind, flags, 0)
            self.map[at + RECORD_SIZE:after] = text
            self.at = after
        else:
            data = RECORD.pack(length, self.seq, now, serial, counts, kind, flags, 0) + text
            room = self.end - at
            self.map[at:self.end] = data[:room]
            self.at = HEADER + length - room
            self.map[HEADER:self.at] = data[room:]
            self.passed += self.end - HEADER
        self.seq += 1
        self.words[TOTAL] = self.at + self.passed  # one store: from here on the record is there

    def request(self):
        """What the watcher asks for: serial of a test, stage, text."""
        serial, stage, length = REQUEST.unpack_from(self.map, REQUEST_AT)
        start = REQUEST_AT + REQUEST.size
        text = self.map[start:start + min(length, MAX_REQUEST_TEXT)]
        return serial, stage, text.decode("utf-8", "replace")

    def forget_request(self):
        """It was acted on: the watcher may send the signal again if it sees that it was not."""
        struct.pack_into("<I", self.map, REQUEST_AT + 8, 0)


# --- this process

MADV_WIPEONFORK = 18  # since Linux 4.14; the module mmap has no name for it


def _mark_of_process():
    """Its first item is true in this process, and in none that is forked from it.

    To read it asks the kernel nothing, and is also right where a child of another namespace has
    the same pid.
    """
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
    except OSError:
        return MarkByPid()
    page[0] = 1
    return page


class MarkByPid:
    """The same for kernels that wipe no pages."""

    def __init__(self):
        self.pid = getpid()

    def __getitem__(self, _):
        return getpid() == self.pid


# --- held descriptors
#
# To find /proc/PID/task and /proc/PID/fd by their names costs more than half of what the kernel
# does for us at the end of a test. So both are held open, by O_PATH: such a descriptor can be
# asked by fstat, and neither read nor written, so whatever tests do with it, no byte gets lost.
# A number may be closed and taken by a test at any time, and a fork inherits those of its parent.
# So each answer is looked at for whether it is of the file that was opened.


def _held(path, lowest):
    """A descriptor of a folder, with a number so high that tests get those they would get."""
    low = os_open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        fd = fcntl(low, F_DUPFD_CLOEXEC, lowest)
    finally:
        os_close(low)
    return fd, fstat(fd)[1:3]  # st_ino and st_dev


def _still_held(held):
    """Those that nobody has closed, nor put another file in their place."""
    still = []
    for fd, identity in held:
        try:
            if fstat(fd)[1:3] == identity:
                still.append((fd, identity))
        except FileNotFoundError:  # the parent's /proc/PID/fd, and the parent has ended
            still.append((fd, identity))
        except OSError:
            pass
    return still


def _let_go(held, task):
    """Closes what is surely ours, and tells what is left."""
    left = []
    for fd, identity in _still_held(held):
        try:
            # another thread could put a file of its own there, just now
            if stat(task).st_nlink == 3 and fstat(fd)[1:3] == identity:
                os_close(fd)
                continue
        except OSError:
            pass
        left.append((fd, identity))
    return left


# --- counting


class Counter:
    """Numbers of threads, interpreters, children and descriptors of this process.

    Python's numbers are had in a fraction of a microsecond, the kernel's in some.
    """

    def __init__(self, inherited):
        self.moved = True  # whether something came or went since the last births()
        self.alone = False  # nothing did, and Python has but one thread: as at most tests
        self.threads = 0
        self.modules = 0
        self.tids = ()
        self.os_threads = 0
        self.interpreters = [0]
        self.interpreter_module = None
        self.children = NO_CHILDREN
        self.kernels = None  # threads, children and descriptors as in self.all
        self.all = self.pythons = NOTHING_COUNTED  # as records hold them
        self.known_threads = set()
        self.known_tids = set()
        self.known_interpreters = set()
        self.known_children = set()
        # Through /proc/self it takes a fifth longer; but /proc may be of another namespace.
        folder = "/proc/%d/" % getpid() if _in_proc(getpid()) else "/proc/self/"
        self.task = (folder + "task").encode()
        self.fd = (folder + "fd").encode()
        # Descriptors and identities of these two; of the parent's, if they could not be closed.
        self.held = _let_go(inherited, self.task)
        self.holds = False  # whether both are held, and are this process's
        self.task_fd = self.task_identity = self.fd_fd = self.fd_identity = None

    def hold(self):
        """From now on the kernel is asked by descriptors, if they can be had."""
        try:
            limit = min(sysconf("SC_OPEN_MAX"), HIGHEST_LIMIT)  # the soft RLIMIT_NOFILE
            if self.held or fcntl is None or limit < USUAL_LIMIT or not stat(self.fd).st_size:
                return
            for path in (self.task, self.fd):
                self.held.append(_held(path, limit - BELOW_LIMIT))
            (self.task_fd, self.task_identity), (self.fd_fd, self.fd_identity) = self.held
            self.holds = True
        except OSError:
            self.let_go()

    def let_go(self):
        self.holds = False
        self.held = _let_go(self.held, self.task)

    def _opened(self):
        """Number of descriptors but ours."""
        # Since Linux 6.2 the size of the folder is their number, before it is 0; the listing has
        # one of its own.
        opened = stat(self.fd).st_size or len(listdir(self.fd)) - 1
        if self.held:
            self.held = _still_held(self.held)
            opened -= len(self.held)
        return opened if opened >= 0 else NOT_COUNTED

    def look_at_threads(self):
        """Those of threading. Callers see for themselves that there is but one, as mostly."""
        # the dictionary, not threading.enumerate(): that takes a lock
        threads = len(_active)
        # as many as before may be others than before
        tids = _tids() if threads <= 64 else None
        if threads != self.threads or tids != self.tids:
            self.threads = threads
            self.tids = tids
            self.moved = True
            self.alone = False

    def count_all(self, fds=True):
        """All counts, as a record holds them."""
        if len(_active) != 1 or self.threads != 1:
            self.look_at_threads()
        if len(sys.modules) != self.modules:
            self.modules = len(sys.modules)
            self.interpreter_module = _interpreter_module()
        if self.interpreter_module is not None:
            interpreters = _interpreters(self.interpreter_module)
            if interpreters != self.interpreters:
                self.interpreters = interpreters
                self.moved = True
        os_threads = opened = NOT_COUNTED
        children = None
        if self.holds:
            try:
                found = fstat(self.task_fd)
                self.holds = found[1:3] == self.task_identity
                os_threads = found.st_nlink - 2
                if fds:
                    found = fstat(self.fd_fd)
                    if found[1:3] != self.fd_identity or found.st_size < 2:
                        self.holds = False
                    opened = found.st_size - 2
            except OSError:  # closed by a test; it will do so again, so we do without
                self.holds = False
        try:
            if not self.holds:
                os_threads = opened = NOT_COUNTED
                os_threads = stat(self.task).st_nlink - 2
                if fds:
                    opened = self._opened()
            waitid(P_ALL, 0, ANY_CHILD)
            children = _children(os_threads)
        except ChildProcessError:
            children = NO_CHILDREN
        except OSError:  # no /proc, as in a chroot
            pass
        kernels = (os_threads, children, opened)
        if self.moved or kernels != self.kernels:
            self._pack(*kernels)
            self.kernels = kernels
        return self.all

    def _pack(self, os_threads, children, opened):
        if os_threads not in (self.os_threads, NOT_COUNTED):
            self.os_threads = os_threads
            self.moved = True
        if children is not None and children != self.children:
            self.children = children
            self.moved = True
        interpreters = len(self.interpreters)
        alive = NOT_COUNTED if children is None else len(children)
        self.all = COUNTS.pack(self.threads, os_threads, interpreters, alive, opened)
        self.pythons = COUNTS.pack(
            self.threads, NOT_COUNTED, interpreters, NOT_COUNTED, NOT_COUNTED)

    def births(self):
        """What is new and what is gone since the last call, in pieces that fit a record."""
        self.moved = False
        self.alone = self.threads == 1
        threads = {}
        own = get_ident()
        for ident, thread in list(_active.items()):
            # after a fork some versions keep the parent's native_id for the one thread left
            tid = get_native_id() if ident == own else thread.native_id
            if tid is not None:
                threads[tid] = [tid, str(thread.name)[:MAX_NAME], bool(thread.daemon)]
        tids = set(threads)
        if self.os_threads > len(tids):
            try:
                tids.update(map(int, listdir(self.task)))
            except OSError:
                pass
        interpreters = set(self.interpreters)
        children = set(self.children)
        lists = [
            ("threads", [threads[tid] for tid in sorted(set(threads) - self.known_threads)]),
            ("os_threads", sorted(tids - set(threads) - self.known_tids)),
            ("interpreters", sorted(interpreters - self.known_interpreters)),
            ("children", sorted(children - self.known_children)),
        ]
        gone = [
            ("threads", sorted(self.known_tids - tids)),
            ("interpreters", sorted(self.known_interpreters - interpreters)),
            ("children", sorted(self.known_children - children)),
        ]
        self.known_threads = set(threads)
        self.known_tids = tids
        self.known_interpreters = interpreters
        self.known_children = children
        longest = max(len(items) for _, items in lists + gone)
        for start in range(0, longest, MAX_LISTED):
            piece = slice(start, start + MAX_LISTED)
            record = {name: items[piece] for name, items in lists}
            record["gone"] = {name: items[piece] for name, items in gone}
            yield record


def _in_proc(pid):
    try:
        return os.readlink("/proc/self") == str(pid)
    except OSError:
        return False


def _tids():
    return sorted(thread.native_id or 0 for thread in list(_active.values()))


def _interpreter_module():
    """Without it nobody (but C code) has made a second interpreter, and it is not ours to load."""
    return sys.modules.get("_interpreters") or sys.modules.get("_xxsubinterpreters")


def _interpreters(module):
    """Ids of all interpreters."""
    # Up to 3.12 these are objects that keep their interpreter alive: none may stay with us.
    # Later they are pairs (id, whence).
    return [entry[0] if type(entry) is tuple else int(entry) for entry in module.list_all()]


def _children(os_threads):
    """Pids of the children of all threads, zombies included; None if that costs too much."""
    if os_threads > 16:
        return None
    pids = []
    try:
        for tid in listdir("/proc/self/task"):
            try:
                with open("/proc/self/task/%s/children" % tid, "rb", 0) as file:
                    pids.extend(map(int, file.read(1 << 16).split()))
            except (FileNotFoundError, ProcessLookupError):
                if tid == str(getpid()):  # a kernel without these files
                    return None
    except OSError:
        return None
    return sorted(pids)


# --- limits


MARKS = ("hangscope", "timeout")
TRUE = ("true", "1", "yes", "on")  # as pytest reads configuration files
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(h|ms|m|s)")
MAX_VALUE = 64  # characters of a marker's value that is no time


def _duration(text):
    """Seconds of what is written as for the command line: 60s, 2m, 1h30m, 500ms."""
    seconds = at = 0
    while text[at:].strip():
        part = DURATION.match(text, at)
        if part is None:
            return None
        seconds += float(part.group(1)) * UNITS[part.group(2)]
        at = part.end()
    return seconds if at else None


def _seconds(value):
    """A limit as a user wrote it, None if it is none; 0: no limit is wanted."""
    try:
        seconds = float(value)
    except Exception:  # anything may stand in a marker
        return None
    if seconds != seconds or seconds == float("inf"):
        return None
    return max(seconds, 0.0)


def _marked_limit(hangscope, timeout):
    """The limit that the closest markers of the two names set, as SETUP tells it."""
    no_time = ""
    for mark in (hangscope, timeout):
        if mark is not None:
            value = mark.args[0] if mark.args else mark.kwargs.get("timeout")
            seconds = _seconds(value)
            if seconds is None and mark is hangscope and isinstance(value, str):
                seconds = _seconds(_duration(value))
            if seconds is not None:
                return "%s:%r%s" % (mark.name, seconds, no_time)
            if mark is hangscope:
                no_time = "\t" + _shown(mark)
    return no_time


def _shown(mark):
    """What stands in the brackets of a marker, in one short line."""
    try:
        values = [repr(value) for value in mark.args]
        values += ["%s=%r" % (name, value) for name, value in mark.kwargs.items()]
    except Exception:  # of the repr of what a user put there
        return "..."
    return " ".join(", ".join(values).split())[:MAX_VALUE]


class Limits:
    """Limits of tests by their markers."""

    def __init__(self):
        self.parent = None
        self.inherited = (None, None)
        self.marked = False  # whether one is inherited

    def of(self, item):
        # Looking up the chain of nodes is the dear part; neighbours share all of it but the
        # last link.
        if item.parent is not self.parent:
            self.inherited = tuple(map(item.parent.get_closest_marker, MARKS))
            self.marked = self.inherited != (None, None)
            self.parent = item.parent
        own = {}
        for mark in item.own_markers:
            if mark.name in MARKS:
                own.setdefault(mark.name, mark)
        if not own and not self.marked:
            return ""
        return _marked_limit(*(own.get(n) or i for n, i in zip(MARKS, self.inherited)))


def _ini(config, name):
    """A value of the configuration file, whether or not a plugin knows of it."""
    try:
        return config.getini(name)
    except (KeyError, ValueError):
        pass
    known = getattr(config, "_inicfg", None)  # Config.inicfg warns from pytest 9 on
    value = (config.inicfg if known is None else known).get(name)
    return getattr(value, "value", value)


def _global_limit(config):
    """The limit of pytest-timeout for each test, in seconds, or None."""
    values = (
        getattr(config.option, "timeout", None),
        os.environ.get("PYTEST_TIMEOUT"),
        _ini(config, "timeout"),
    )
    for value in values:
        seconds = _seconds(value)
        if seconds is not None:
            return seconds or None
    return None


# --- out of sight


class Hidden:
    """What of us the tests could see, taken away, and given back to an xdist controller."""

    def __init__(self):
        self.run = os.environ.get("HANGSCOPE_RUN")
        self.tox = os.environ.get("TOX_OVERRIDE") == TOX_OVERRIDE

    @staticmethod
    def modules(pluginmanager):
        """sys.path, sys.modules and the list of plugins.

        Not before all entry points are loaded: xdist takes a copy of sys.path then, for its
        workers.
        """
        while FOLDER in sys.path:
            sys.path.remove(FOLDER)
        sys.path_importer_cache.pop(FOLDER, None)
        module = sys.modules.pop(__name__, None)
        plugins = getattr(pluginmanager, "_plugin_distinfo", [])
        plugins[:] = [entry for entry in plugins if entry[0] is not module]
        if module is not None:
            pluginmanager.unregister(module)

    @staticmethod
    def environment():
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        kept = [folder for folder in folders if not folder or os.path.abspath(folder) != FOLDER]
        if len(kept) < len(folders):
            if kept:
                os.environ["PYTHONPATH"] = os.pathsep.join(kept)
            else:
                del os.environ["PYTHONPATH"]
        os.environ.pop("HANGSCOPE_RUN", None)
        if os.environ.get("TOX_OVERRIDE") == TOX_OVERRIDE:
            del os.environ["TOX_OVERRIDE"]

    def restore_environment(self):
        self.environment()
        user = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = FOLDER + os.pathsep + user if user else FOLDER
        os.environ["HANGSCOPE_RUN"] = self.run
        if self.tox:
            os.environ.setdefault("TOX_OVERRIDE", TOX_OVERRIDE)

    @staticmethod
    def xdist(needed):
        """xdist's copy of sys.path: workers get it, also those of runs inside of a test."""
        plugin = sys.modules.get("xdist.plugin")
        paths = getattr(plugin, "_sys_path", None)
        if paths is not None:
            paths[:] = [FOLDER] * needed + [path for path in paths if path != FOLDER]


def _may_distribute(options):
    """Whether pytest was told to run the tests in other processes, by xdist."""
    names = ("numprocesses", "tx", "distload", "looponfail")
    return any(getattr(options, name, None) for name in names)


def _in_xdist_worker():
    """Whether xdist's worker code called us; it sets config.workerinput only later.

    Not by PYTEST_XDIST_WORKER: what a test starts inherits that.
    """
    frame = sys._getframe()
    while frame is not None:
        names = frame.f_globals
        if names.get("__name__") == "__channelexec__" and "workerinput" in names:
            return True
        frame = frame.f_back
    return False


# --- the hooks


class Probe:
    """The hooks of one pytest session, and of the processes that are forked from it."""

    def __init__(self, hidden):
        self.hidden = hidden
        self.run = hidden.run
        self.config = None
        self.controller = False
        self.logs = True  # whether logged reports are of tests of this process
        self.signal = 0
        self.handler = None
        self.limits = Limits()
        self.serial = 0  # of the last test that began
        self.running = 0  # the same, and 0 when it has ended
        self.test = None  # text of its SETUP
        self.result = PASSED
        self.early = None  # a report of a test that we were not told of yet
        self.last = 0  # time of the last record with counts
        self._open(CAPACITY, [])

    def _open(self, capacity, inherited):
        self.pid = getpid()
        self.own = _mark_of_process()
        self.thread = self.ring = None
        self.counter = Counter(inherited)
        self.ring = Ring(self.run, capacity)
        self.thread = get_ident()  # the only one that records; none without a ring

    # records

    def _here(self):
        """Whether to record: not on other threads, and after a fork into a ring of its own.

        Hooks that run for each test call it only if process or thread is another one.
        """
        if not self.own[0]:
            self._enter_child()
        return get_ident() == self.thread

    def _enter_child(self):
        # pytest-forked, or a fork in a test whose child came back to pytest. The parent's
        # ring is mapped here, too, but is the parent's.
        running = self.running
        self._open(FORKED_CAPACITY, self.counter.held)
        self.serial = self.running = 0
        self._session(forked=True)
        if self.logs:
            self.logs = False
            self.config.pluginmanager.register(ForkedReports(self))
        if running:
            self.serial = self.running = 1
            self._put(SETUP, self.test)

    def _put(self, kind, text=b"", flags=0):
        """A record without counts."""
        self.ring.put(monotonic_ns(), self.running, NOTHING_COUNTED, kind, flags, text)

    def _boundary(self, kind, text=b"", flags=0):
        """A record with all counts, and what was born since the last one."""
        now = self.last = monotonic_ns()
        counts = self.counter.count_all()
        self.ring.put(now, self.running, counts, kind, flags, text)
        if self.counter.moved:
            self._births(kind, counts)

    def _step(self, kind):
        """CALL or TEARDOWN, with the counts that are cheap."""
        try:
            if (not self.own[0] or get_ident() != self.thread) and not self._here():
                return
            now = monotonic_ns()
            if len(_active) == 1 and self.counter.alone and now - self.last < NOTHING_STARTS:
                self.ring.mark(now, self.running, self.counter.pythons, kind, 0)
                self.last = now
            else:
                self._counted_step(now, kind)
        except Exception:
            pass

    def _counted_step(self, now, kind):
        counter = self.counter
        if len(_active) != 1 or counter.threads != 1:
            counter.look_at_threads()
        if counter.moved or now - self.last > NOTHING_STARTS:
            counts = counter.count_all(fds=False)
        else:
            counts = counter.pythons
        self.last = now
        self.ring.mark(now, self.running, counts, kind, 0)
        if counter.moved:
            self._births(kind, counts)

    def _births(self, kind, counts):
        for births in self.counter.births():
            first = kind == SESSION
            self.ring.put(self.last, self.running, counts, BIRTHS, first, _json(births))

    # session

    def _session(self, forked=False):
        config = self.config
        worker = getattr(config, "workerinput", {})
        xmlpath = getattr(config.option, "xmlpath", None)
        if xmlpath and not worker:
            xmlpath = os.path.expanduser(os.path.expandvars(xmlpath))
            xmlpath = os.path.normpath(os.path.abspath(xmlpath))
        text = _json({
            "python": "%d.%d.%d" % sys.version_info[:3],
            "pytest": pytest.__version__,
            "worker": worker.get("workerid"),
            "controller": self.controller and not forked,
            "forked": forked,
            "run": worker.get("testrunuid") or getattr(config.option, "testrunuid", None),
            "root": str(getattr(config, "rootpath", None) or config.rootdir),
            "signal": self.signal if getsignal(self.signal or 1) is self.handler else 0,
            "xmlpath": None if worker else xmlpath,
            "timeout": _global_limit(config),
            "timeout_active": config.pluginmanager.hasplugin("timeout"),
            "func_only": str(_ini(config, "timeout_func_only")).lower() in TRUE,
            "ppid": os.getppid(),
        })
        if not self.controller:
            self.counter.hold()
        self._boundary(SESSION, text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session):
        try:
            self.config = session.config
            worker = hasattr(session.config, "workerinput")
            self.controller = not worker and session.config.pluginmanager.hasplugin("dsession")
            self.logs = not self.controller  # it logs the reports of its workers
            Hidden.xdist(needed=self.controller)
            if self.controller:
                self.hidden.restore_environment()  # for workers, also for those started later
            else:
                self.hidden.environment()
            self._install_handler(sys._getframe(1).f_code)
            if self._here():
                self._session()
        except Exception:
            pass

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectstart(self, collector):
        try:
            if isinstance(collector, (pytest.File, pytest.Package)) and self._here():
                self._put(COLLECT, _bytes(collector.nodeid))
        except Exception:
            pass

    def pytest_collectreport(self, report):
        # A module is collected: what may hang now (a conftest, a plugin) is not in it.
        try:
            file = report.nodeid and "::" not in report.nodeid
            if file and not self.controller and self._here():
                self._put(COLLECT)
        except Exception:
            pass

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session):
        try:
            if self._here():
                name = self._save_list([item.nodeid for item in session.items])
                text = _json({"count": len(session.items), "list": name})
                self._boundary(COLLECTED, text)
        except Exception:
            pass

    def _save_list(self, ids):
        """Saves the node ids in the run folder: whole or not at all, once for all workers."""
        worker = getattr(self.config, "workerinput", {})
        name = "collected-%s" % (worker.get("testrunuid") or self.pid)
        path = os.path.join(self.run, name)
        if os.path.exists(path):
            return name
        own = "%s.%d" % (path, self.pid)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(own, flags, 0o600)
            try:
                with open(fd, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                    for node in ids:
                        file.write(node.replace("\\", "\\\\").replace("\n", "\\n") + "\n")
                os.link(own, path)
            finally:
                os.unlink(own)
        except FileExistsError:  # another worker was faster
            return name
        except OSError:
            return None
        return name

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session, exitstatus):
        try:
            if self._here():
                self.running = 0  # if it has no end, pytest was interrupted
                self._boundary(FINISH, _bytes(str(int(exitstatus))))
        except Exception:
            pass

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self):
        try:
            if self.controller:
                self.hidden.environment()
            if self._here():
                self._boundary(UNCONFIGURE)
                self.counter.let_go()
            if self.signal and getsignal(self.signal) is self.handler:
                signal.signal(self.signal, signal.SIG_DFL)
        except Exception:
            pass

    def pytest_enter_pdb(self):
        try:
            if self._here():
                self._put(PDB_ENTER)
        except Exception:
            pass

    def pytest_leave_pdb(self):
        try:
            if self._here():
                self._put(PDB_LEAVE)
        except Exception:
            pass

    def _install_handler(self, multicall):
        """`multicall` is the code by which pluggy calls hooks."""
        # Nothing to do, so that there is no handler to be seen.

    # tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        try:
            if (not self.own[0] or get_ident() != self.thread) and not self._here():
                return
            if self.running:  # pytest-rerunfailures tells not of the end of a failed try
                self._end()
            limits = self.limits
            known = item.parent is limits.parent and not limits.marked and not item.own_markers
            limit = "" if known else limits.of(item)
            file, line, _ = item.location
            line = "" if line is None else line + 1
            file = file.replace("\n", "\\n")
            text = self.test = _bytes(f"{line}\n{limit}\n{file}\n{item.nodeid}")
            self.serial = self.running = self.serial + 1
            self.result = PASSED
            now = monotonic_ns()
            if now - self.last < SAME:
                # so short after the end of a test the counts of that hold
                self.ring.put(now, self.running, self.counter.all, SETUP, 0, text)
                self.last = now
            else:
                self._boundary(SETUP, text)
        except Exception:
            pass

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self):
        self._step(CALL)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item):
        if not self.running:
            self._begin_late(item)
        self._step(TEARDOWN)

    def _begin_late(self, item):
        """The setup was ended, as by a skip, by a hook that was called before ours."""
        try:
            report, self.early = self.early, None
            self.pytest_runtest_setup(item)
            if self.running and report is not None and report.nodeid == item.nodeid:
                self._outcome(report)
        except Exception:
            pass

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):
        try:
            if report.outcome != "passed" or hasattr(report, "wasxfail"):
                if self.logs:
                    self.report(report)
            elif report.when == "teardown" and self.logs and self.running:
                if (self.own[0] and get_ident() == self.thread) or self._here():
                    self._end()
        except Exception:
            pass

    def report(self, report):
        """Tells of a report; the one of the teardown is the end of the test."""
        try:
            if not self.running:
                self.early = report
                return
            if (not self.own[0] or get_ident() != self.thread) and not self._here():
                return
            if report.outcome != "passed" or hasattr(report, "wasxfail"):
                self._outcome(report)
            if report.when == "teardown":
                self._end()
        except Exception:
            pass

    def _end(self):
        now = self.last = monotonic_ns()
        counts = self.counter.count_all()
        self.ring.mark(now, self.running, counts, END, self.result)
        if self.counter.moved:
            self._births(END, counts)
        self.running = 0

    def _outcome(self, report):
        expected = getattr(report, "wasxfail", None)
        if report.outcome == "failed":
            shown = "failed"
            if self.result != FAILED:
                self.result = FAILED if report.when == "call" else ERROR
            crash = getattr(report.longrepr, "reprcrash", None)
            message = str(report.longrepr if crash is None else crash.message)
        elif expected is not None:
            shown = "xfailed" if report.outcome == "skipped" else "xpassed"
            message = str(expected)
        else:
            shown = str(report.outcome)
            reason = report.longrepr
            message = str(reason[2] if isinstance(reason, tuple) else reason)
        if report.outcome == "skipped" and self.result == PASSED:
            self.result = SKIPPED
        message = message.encode("utf-8", "backslashreplace")[:4096].decode("utf-8", "ignore")
        phase = ("setup", "call", "teardown").index(report.when) + 1
        self._put(REPORT, _bytes("%s\n%s" % (shown, message)), phase)


class ForkedReports:
    """pytest-forked logs no report in its child, but it makes them there."""

    def __init__(self, probe):
        self.probe = probe

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self):
        outcome = yield
        if outcome.excinfo is None:
            self.probe.report(outcome.get_result())


# --- failing a test


class Interrupter(Probe):
    """Can also fail a test when it is asked to.

    An exception that a signal's handler raises comes out of whatever runs just then. It must be
    code that a hook of the asked test's phase has called: pytest's own code around that does not
    expect one. So the handler looks at the stack, and nothing has to be noted for each phase.
    """

    def __init__(self, hidden):
        super().__init__(hidden)
        self.handler = self._on_request  # one object, to be known again
        self.multicall = None  # the code by which pluggy calls hooks
        self.interruption = None  # the phase that is being failed
        self.item = self.nextitem = None  # of the teardown
        self.torn_down = 0  # serial of the last test that came to its teardown

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item, nextitem):
        if not self.running:
            self._begin_late(item)
        self.item = item
        self.nextitem = nextitem
        self.torn_down = self.running
        self._step(TEARDOWN)

    def _install_handler(self, multicall):
        if "from_current" not in FROM_CALL.co_names:
            return  # a pytest that Interruption does not know
        self.multicall = multicall
        first = signal.SIGRTMIN + 11
        try:
            for number in range(first, signal.SIGRTMAX + 1):
                if getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self.handler)
                    self.signal = number
                    return
        except ValueError:  # not the main thread of the main interpreter: can't be interrupted
            pass

    def _phase_of(self, interrupted):
        """The frame that takes what is raised in the interrupted one; None if none does that."""
        phase = None
        hooked = False  # whether a hook has called the interrupted frame
        for frame in _stack(interrupted):
            code = frame.f_code
            if frame.f_globals is NAMES:
                # Not in the middle of our own work, but in what that has called of the tests.
                if frame is interrupted or code not in (FINISH_TEARDOWN, ON_REQUEST):
                    return None
                if code is FINISH_TEARDOWN:
                    return frame
            elif code is self.multicall:
                hooked = hooked or frame is not interrupted
            elif code is FROM_CALL:
                # The outermost one: those within are of tests that a test runs (pytester).
                phase = frame if hooked else None
        return phase

    def _accept(self, interrupted):
        """The watcher's request if it is for the code that runs right now, and its phase."""
        if not self.own[0] or self.ring is None:
            return None
        serial, stage, text = self.ring.request()
        if not serial or serial != self.running or stage not in (1, 2):
            return None
        phase = self._phase_of(interrupted)
        if phase is None:
            return None
        when = phase.f_locals.get("when")
        if when == "setup" and serial == self.torn_down:
            return None  # it is the setup of another test (or try) that we were not told of yet
        return stage, text, phase, when

    def _on_request(self, _number, frame):
        __tracebackhide__ = True
        try:
            request = self._accept(frame)
        except Exception:
            return
        if request is None:
            return
        stage, text, phase, when = request
        soft = getsignal(signal.SIGINT) if stage == 1 else None
        if callable(soft):
            # An exception in the middle of trio or asyncio would break them for the tests to
            # come. Their SIGINT handlers know when it is safe, and end the main task if not.
            name = getattr(soft, "__qualname__", None) or type(soft).__qualname__
            self._acted(stage, text, phase, "called the SIGINT handler %s" % name)
            try:
                soft(signal.SIGINT, frame)
                return
            except KeyboardInterrupt:
                pass
        else:
            self._acted(stage, text, phase, "raised a failure")
        # A failure, unlike an interrupt, is a thing that fixtures and unittest expect. But
        # asyncio keeps a failure of a task for itself, and an interrupt ends it.
        if when == "call" and _asyncio_runs():
            raise KeyboardInterrupt
        raise pytest.fail.Exception(text)

    def _acted(self, stage, text, phase, what):
        if self.interruption is None or self.interruption.phase is not phase:
            self.interruption = Interruption(phase, self._settle)
        self.interruption.text = text
        try:
            self.ring.forget_request()
            self._put(INTERRUPTED, _bytes(what), stage)
        except Exception:
            pass

    def _settle(self, call):
        """The phase that was interrupted has ended: it has failed, whatever became of that."""
        try:
            interruption, self.interruption = self.interruption, None
            interruption.end()
            cut_short = interruption.cut_short
            text = interruption.text
            error = None if call.excinfo is None else call.excinfo.value
            if error is None:
                # by pytest's own function, so that no frame of ours is to be seen
                fail = functools.partial(pytest.fail, text, pytrace=False)
                call.excinfo = pytest.CallInfo.from_call(fail, call.when).excinfo
            elif not cut_short and _is_interrupt(error):
                call.excinfo = _failure(text, error)
                cut_short = True
            # else it failed by itself, or by our failure
            if cut_short and call.when == "teardown":
                self._finish_teardown(self.item)
        except Exception:
            pass

    def _finish_teardown(self, item):
        # An interrupt makes pytest leave its teardown half done; the next test would fail by
        # "previous item was not torn down properly". It has forgotten the other fixtures of
        # the test, but these know themselves that they are still set up.
        fixtures = list(item._request._fixture_defs.values())
        left = [one.finish for one in fixtures if one.scope == "function" and one.cached_result]
        nodes = functools.partial(item.session._setupstate.teardown_exact, self.nextitem)
        for finish in [functools.partial(one, item._request) for one in left[::-1]] + [nodes]:
            try:
                finish()
            except BaseException as error:
                expected = (Exception, pytest.fail.Exception, pytest.skip.Exception)
                if self.interruption is None and not isinstance(error, expected):
                    raise
            finally:
                if self.interruption is not None:  # it hung, too
                    self.interruption.end()
                    self.interruption = None


class Interruption:
    """A phase of a test that is being failed, from the request to the end of the phase.

    pytest lets a KeyboardInterrupt end the session, and the SIGINT handlers of asyncio and trio
    make one. Wrappers of the phases' hooks could turn it into a failure, but would cost each
    test more than all other hooks of ours. So we change what CallInfo.from_call calls when the
    phase has ended: ExceptionInfo.from_current if by an exception, then CallInfo(...); and only
    as long as a phase is being failed.
    """

    def __init__(self, phase, settle):
        self.phase = phase  # the frame of from_call
        self.text = ""
        self.cut_short = False  # whether a KeyboardInterrupt has ended it
        self.from_current = vars(pytest.ExceptionInfo)["from_current"]
        self.call_info = call_info = pytest.CallInfo.__init__

        def from_current(*args, **kwargs):
            found = self.from_current.__get__(None, pytest.ExceptionInfo)(*args, **kwargs)
            if sys._getframe(1) is phase:
                if isinstance(found.value, KeyboardInterrupt):
                    self.cut_short = True
                    return _failure(self.text, found.value)
                if isinstance(found.value, pytest.exit.Exception):
                    self.end()  # from_call raises it again: there will be no CallInfo
            return found

        def init(call, *args, **kwargs):
            call_info(call, *args, **kwargs)
            if sys._getframe(1) is phase:
                settle(call)

        pytest.ExceptionInfo.from_current = from_current
        pytest.CallInfo.__init__ = init

    def end(self):
        pytest.ExceptionInfo.from_current = self.from_current
        pytest.CallInfo.__init__ = self.call_info


FROM_CALL = pytest.CallInfo.from_call.__code__
FINISH_TEARDOWN = Interrupter._finish_teardown.__code__
ON_REQUEST = Interrupter._on_request.__code__
NAMES = globals()


def _stack(frame):
    """A frame and its callers. Exceptions that end a greenlet go on in its parent."""
    greenlets = sys.modules.get("greenlet")
    current = greenlets.getcurrent() if greenlets is not None else None
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        current = getattr(current, "parent", None)
        if current is None:
            return
        frame = current.gr_frame


def _failure(text, error):
    """Our failure in the place of an interrupt, as pytest knows exceptions."""
    failure = pytest.fail.Exception(text)
    if isinstance(error, KeyboardInterrupt):
        failure.__cause__ = error.__cause__
        failure.__context__ = error.__context__
        failure.__suppress_context__ = error.__suppress_context__
    else:
        failure.__cause__ = error
    failure.__traceback__ = error.__traceback__
    return pytest.ExceptionInfo.from_exc_info((type(failure), failure, failure.__traceback__))


def _asyncio_runs():
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


def _is_interrupt(error):
    """Whether it is a KeyboardInterrupt, or a group (trio's) with one, or with our failure."""
    if isinstance(error, KeyboardInterrupt):
        return True
    parts = getattr(error, "exceptions", None)
    if not isinstance(parts, tuple):
        return False
    kinds = (KeyboardInterrupt, pytest.fail.Exception)
    return any(isinstance(part, kinds) or _is_interrupt(part) for part in parts)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config):
    """The first hook after all plugins are loaded, and before code of the project runs."""
    try:
        hidden = Hidden()
        pluginmanager = early_config.pluginmanager
        hidden.modules(pluginmanager)
        if _in_xdist_worker() or not _may_distribute(early_config.known_args_namespace):
            hidden.environment()
        if hidden.run and mmap is not None and sys.byteorder == "little":
            asked = os.path.exists(os.path.join(hidden.run, INTERRUPTS))
            pluginmanager.register(Interrupter(hidden) if asked else Probe(hidden))
    except Exception:
        pass
