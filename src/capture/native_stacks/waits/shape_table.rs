//! Functions by which it is known what a thread waits in, and how the program would call that. Names are those of glibc, of
//! Rust's std (1.65 to 1.95), parking_lot 0.12, crossbeam-channel 0.5, tokio 1, rayon 1.

use super::names::ends;
use super::shapes::Primitive;
use Name::{Ends, In, Is};
use Primitive::{
    ParkingLotMutex, ParkingLotRwLock, PthreadMutex, PthreadRwLock, Signal, StdMutex, StdOnce,
    StdRead, StdWrite, ThreadExit,
};

/// How a function is recognised.
pub(super) enum Name {
    /// By its whole name: C's.
    Is(&'static str),
    /// By its last components: Rust's.
    Ends(&'static str),
    /// By a part of its path and its end.
    In(&'static str, &'static str),
}

impl Name {
    /// Whether a function's plain path is the one.
    pub(super) fn fits(&self, path: &str) -> bool {
        match self {
            Is(name) => path == *name,
            Ends(components) => ends(path, components),
            In(part, components) => path.contains(part) && ends(path, components),
        }
    }
}

/// Of a thread whose pool is the one for blocking calls.
const IDLE_BLOCKING: &str = "idle tokio blocking thread";
/// It notes the mutex that its waiters have released.
pub(super) const PARKING_LOT_CONDVAR: &str = "parking_lot::Condvar";

/// How a function is recognised, what is waited for in it, what the program calls it, and the type that is waited on. The most
/// telling first: a channel waits by parking, which waits on a futex.
pub(super) const SHAPES: &[(Name, Primitive, &str, &str)] = &[
    // Locks: whatever else is on the stack, it is a lock that the thread waits for.
    (
        Ends("RwLock::read_contended"),
        StdRead,
        "RwLock::read",
        "std::sync::RwLock",
    ),
    (
        Ends("RwLock::write_contended"),
        StdWrite,
        "RwLock::write",
        "std::sync::RwLock",
    ),
    (
        In("std::", "Mutex::lock_contended"),
        StdMutex,
        "Mutex::lock",
        "std::sync::Mutex",
    ),
    (
        In("parking_lot", "RawMutex::lock_slow"),
        ParkingLotMutex,
        "Mutex::lock",
        "parking_lot::Mutex",
    ),
    (
        In("parking_lot", "RawRwLock::lock_exclusive_slow"),
        ParkingLotRwLock,
        "RwLock::write",
        "parking_lot::RwLock",
    ),
    (
        In("parking_lot", "RawRwLock::lock_shared_slow"),
        ParkingLotRwLock,
        "RwLock::read",
        "parking_lot::RwLock",
    ),
    (
        In("parking_lot", "RawRwLock::lock_upgradable_slow"),
        ParkingLotRwLock,
        "RwLock::upgradable_read",
        "parking_lot::RwLock",
    ),
    (
        In("parking_lot", "RawRwLock::upgrade_slow"),
        ParkingLotRwLock,
        "RwLockUpgradableReadGuard::upgrade",
        "parking_lot::RwLock",
    ),
    (
        In("std::s", "Once::call"),
        StdOnce,
        "Once::call_once",
        "std::sync::Once",
    ),
    (
        In("std::s", "Once::wait"),
        StdOnce,
        "Once::wait",
        "std::sync::Once",
    ),
    // Pools without work, which is their job.
    (
        In("rayon_core::", "WorkerThread::wait_until_cold"),
        Signal,
        "rayon job",
        "",
    ),
    (
        In("tokio::runtime::blocking::pool", "Inner::run"),
        Signal,
        IDLE_BLOCKING,
        "",
    ),
    // Runtimes.
    (
        In("tokio::runtime::blocking::shutdown", "Receiver::wait"),
        Signal,
        "tokio runtime's end",
        "",
    ),
    (
        In("rayon_core::", "LockLatch::wait_and_reset"),
        Signal,
        "rayon job",
        "rayon_core::latch::LockLatch",
    ),
    (
        In("rayon_core::", "LockLatch::wait"),
        Signal,
        "rayon job",
        "rayon_core::latch::LockLatch",
    ),
    // libtest's main thread waits for its tests, which is its job.
    (In("test", "run_tests"), Signal, "idle test runner", ""),
    // Channels.
    (
        In("std::sync::mp", "Channel::recv"),
        Signal,
        "mpsc::Receiver::recv",
        "std::sync::mpsc::Receiver",
    ),
    (
        In("std::sync::mp", "Channel::send"),
        Signal,
        "mpsc::SyncSender::send",
        "std::sync::mpsc::SyncSender",
    ),
    (
        In("std::sync::mp", "Receiver::recv"),
        Signal,
        "mpsc::Receiver::recv",
        "std::sync::mpsc::Receiver",
    ),
    (
        In("std::sync::mp", "SyncSender::send"),
        Signal,
        "mpsc::SyncSender::send",
        "std::sync::mpsc::SyncSender",
    ),
    (
        In("crossbeam_channel", "Channel::recv"),
        Signal,
        "crossbeam_channel::Receiver::recv",
        "crossbeam_channel::Receiver",
    ),
    (
        In("crossbeam_channel", "Channel::send"),
        Signal,
        "crossbeam_channel::Sender::send",
        "crossbeam_channel::Sender",
    ),
    (
        In("crossbeam_channel", "Receiver::recv"),
        Signal,
        "crossbeam_channel::Receiver::recv",
        "crossbeam_channel::Receiver",
    ),
    (
        In("crossbeam_channel", "Sender::send"),
        Signal,
        "crossbeam_channel::Sender::send",
        "crossbeam_channel::Sender",
    ),
    (
        In("crossbeam_channel", "run_select"),
        Signal,
        "crossbeam_channel select",
        "crossbeam_channel::Select",
    ),
    (
        In("flume::", "Receiver::recv"),
        Signal,
        "flume::Receiver::recv",
        "flume::Receiver",
    ),
    (
        In("flume::", "Sender::send"),
        Signal,
        "flume::Sender::send",
        "flume::Sender",
    ),
    // Threads.
    (
        In("std::thread", "JoinInner::join"),
        ThreadExit,
        "JoinHandle::join",
        "",
    ),
    (
        In("std::thread", "JoinHandle::join"),
        ThreadExit,
        "JoinHandle::join",
        "",
    ),
    (
        In("std::thread", "ScopedJoinHandle::join"),
        ThreadExit,
        "ScopedJoinHandle::join",
        "",
    ),
    (
        In("std::thread", "scope"),
        Signal,
        "thread::scope",
        "std::thread::Scope",
    ),
    // Notifications.
    (
        Ends("Barrier::wait"),
        Signal,
        "Barrier::wait",
        "std::sync::Barrier",
    ),
    (
        In("tokio::runtime::scheduler::multi_thread", "Parker::park"),
        Signal,
        "idle tokio worker",
        "",
    ),
    // Of an optimised build, where that is inlined and not told.
    (
        In(
            "tokio::runtime::scheduler::multi_thread",
            "Inner::park_condvar",
        ),
        Signal,
        "idle tokio worker",
        "",
    ),
    (
        In(
            "tokio::runtime::scheduler::multi_thread",
            "Inner::park_driver",
        ),
        Signal,
        "idle tokio worker",
        "",
    ),
    (
        In(
            "tokio::runtime::scheduler::multi_thread",
            "Context::park_internal",
        ),
        Signal,
        "idle tokio worker",
        "",
    ),
    (
        In("tokio::runtime", "CachedParkThread::block_on"),
        Signal,
        "tokio block_on",
        "",
    ),
    (
        In("tokio::runtime", "Runtime::block_on"),
        Signal,
        "tokio block_on",
        "",
    ),
    (
        In("tokio::runtime", "Runtime::block_on_inner"),
        Signal,
        "tokio block_on",
        "",
    ),
    (
        In("tokio::runtime", "enter_runtime"),
        Signal,
        "tokio block_on",
        "",
    ),
    (
        In("tokio::runtime::scheduler::current_thread", "Context::park"),
        Signal,
        "tokio block_on",
        "",
    ),
    (
        In("futures_executor", "run_executor"),
        Signal,
        "futures block_on",
        "",
    ),
    (
        In("parking_lot", "Condvar::wait_until_internal"),
        Signal,
        "Condvar::wait",
        PARKING_LOT_CONDVAR,
    ),
    (
        In("std::s", "Condvar::wait_optional_timeout"),
        Signal,
        "Condvar::wait",
        "std::sync::Condvar",
    ),
    (
        In("std::s", "Condvar::wait"),
        Signal,
        "Condvar::wait",
        "std::sync::Condvar",
    ),
    (In("std::thread", "park"), Signal, "thread::park", ""),
    (
        In("std::thread", "park_timeout"),
        Signal,
        "thread::park_timeout",
        "",
    ),
    (In("std::", "Parker::park"), Signal, "thread::park", ""),
    // The C library.
    (
        Is("pthread_mutex_lock"),
        PthreadMutex,
        "pthread_mutex_lock",
        "pthread_mutex_t",
    ),
    (
        Is("pthread_rwlock_rdlock"),
        PthreadRwLock,
        "pthread_rwlock_rdlock",
        "pthread_rwlock_t",
    ),
    (
        Is("pthread_rwlock_wrlock"),
        PthreadRwLock,
        "pthread_rwlock_wrlock",
        "pthread_rwlock_t",
    ),
    (Is("pthread_join"), ThreadExit, "pthread_join", ""),
    (Is("pthread_clockjoin"), ThreadExit, "pthread_clockjoin", ""),
    (
        Is("pthread_cond_wait"),
        Signal,
        "pthread_cond_wait",
        "pthread_cond_t",
    ),
    (
        Is("pthread_cond_timedwait"),
        Signal,
        "pthread_cond_timedwait",
        "pthread_cond_t",
    ),
    (
        Is("pthread_cond_clockwait"),
        Signal,
        "pthread_cond_clockwait",
        "pthread_cond_t",
    ),
    (
        Is("pthread_barrier_wait"),
        Signal,
        "pthread_barrier_wait",
        "pthread_barrier_t",
    ),
    (Is("sem_wait"), Signal, "sem_wait", "sem_t"),
    (Is("sem_timedwait"), Signal, "sem_timedwait", "sem_t"),
    (Is("sem_clockwait"), Signal, "sem_clockwait", "sem_t"),
    // What it calls while another call of it is under way, in glibc.
    (
        Is("pthread_once_slow"),
        StdOnce,
        "pthread_once",
        "pthread_once_t",
    ),
    (
        Is("pthread_once"),
        StdOnce,
        "pthread_once",
        "pthread_once_t",
    ),
    (
        Is("__cxa_guard_acquire"),
        Signal,
        "initialisation of a static",
        "",
    ),
];
