//! Work shared among as many threads as there are CPUs: most of a capture is small system calls, and the kernel answers
//! those of several threads at once.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Has workers take pieces from the iterator that each is given, and returns their results in the order of the pieces: one for
/// each. The calling thread is a worker itself, so work gets done where no thread can be started (`pids.max`, `ulimit -u`).
pub(super) fn by_workers<P: Send, R: Send>(
    pieces: impl ExactSizeIterator<Item = P> + Send,
    worker: impl Fn(&mut dyn Iterator<Item = P>) -> Vec<R> + Sync,
) -> Vec<R> {
    let workers = workers().min(pieces.len());
    let queue = Mutex::new(pieces.enumerate());
    let run = || {
        let mut taken = Vec::new();
        let mut pieces = std::iter::from_fn(|| {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let (index, piece) = next?;
            taken.push(index);
            Some(piece)
        });
        let results = worker(&mut pieces);
        taken.into_iter().zip(results).collect::<Vec<_>>()
    };
    let mut results = thread::scope(|scope| {
        let others: Vec<_> = (1..workers)
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let mut results = run();
        for other in others {
            match other.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The same for workers that need nothing of their own.
pub(super) fn map<P: Send, R: Send>(
    pieces: impl ExactSizeIterator<Item = P> + Send,
    work: impl Fn(P) -> R + Sync,
) -> Vec<R> {
    by_workers(pieces, |pieces| pieces.map(&work).collect())
}

/// Does two things at a time, `aside` on a thread of its own; one after the other where there is no second CPU or no second thread.
pub(super) fn beside<A, B: Send>(here: impl FnOnce() -> A, aside: impl Fn() -> B + Sync) -> (A, B) {
    if workers() == 1 {
        return (here(), aside());
    }
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, &aside);
        let done = here();
        let beside = match other.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(beside)) => beside,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => aside(),
        };
        (done, beside)
    })
}

/// CPUs that this process may use.
pub(super) fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_the_order_of_the_pieces() {
        let numbers: Vec<u32> = (0..1000).collect();
        let doubled = map(numbers.chunks(7), |piece| {
            piece.iter().map(|number| number * 2).collect::<Vec<_>>()
        });
        assert!(doubled.into_iter().flatten().eq((0..1000).map(|n| n * 2)));
    }

    #[test]
    fn pieces_may_be_changed_in_place() {
        let mut numbers = vec![1; 100];
        map(numbers.chunks_mut(3), |piece| piece.fill(2));
        assert_eq!(numbers, vec![2; 100]);
        assert!(map(numbers.chunks_mut(3).take(0), |_| ()).is_empty());
    }

    #[test]
    fn no_more_workers_than_cpus_or_pieces() {
        let started = AtomicUsize::new(0);
        let count = |pieces: usize| {
            started.store(0, Ordering::Relaxed);
            let numbers: Vec<usize> = (0..pieces).collect();
            let same = by_workers(numbers.iter(), |pieces| {
                started.fetch_add(1, Ordering::Relaxed);
                pieces.copied().collect()
            });
            assert_eq!(same, numbers);
            started.load(Ordering::Relaxed)
        };
        assert_eq!((count(0), count(1)), (1, 1));
        assert!(count(100) <= workers());
    }

    #[test]
    fn two_things_at_a_time() {
        let mut own = 0;
        let (here, aside) = beside(
            || {
                own += 1;
                own
            },
            || "aside",
        );
        assert_eq!((here, aside, own), (1, "aside", 1));
    }

    #[test]
    fn a_panic_of_a_worker_is_passed_on() {
        let outcome = std::panic::catch_unwind(|| {
            map((0..50).collect::<Vec<u32>>().into_iter(), |piece| {
                assert!(piece != 30, "piece 30");
            })
        });
        assert!(outcome.is_err());
    }
}
