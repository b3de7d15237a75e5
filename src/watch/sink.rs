//! Hands events to the sink on a thread of its own.
//!
//! Whoever reads our standard error may be stuck, too: the pipe is then full, and a write would keep hangscope
//! from ending the run.

use crate::model::Event;
use nix::sys::signal::{SigSet, Signal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The way to the sink.
#[derive(Debug)]
pub(super) struct Sink {
    events: Sender<Event>,
    done: Receiver<()>,
    waiting: usize,
    /// It was waited for in vain. Once is enough.
    stuck: bool,
}

impl Sink {
    /// Starts the thread. If there can be none, events are lost and the run is not.
    pub(super) fn start(mut take: Box<dyn FnMut(Event) + Send>) -> Self {
        let (events, coming) = channel::<Event>();
        let (did, done) = channel();
        let body = move || {
            // `stty tostop` would stop all of hangscope when it writes while the command has the terminal.
            let mut mask = SigSet::empty();
            mask.add(Signal::SIGTTOU);
            let _ = mask.thread_block();
            for event in coming {
                take(event);
                if did.send(()).is_err() {
                    break;
                }
            }
        };
        let _ = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(body);
        Self {
            events,
            done,
            waiting: 0,
            stuck: false,
        }
    }

    /// Hands an event over.
    pub(super) fn send(&mut self, event: Event) {
        if self.events.send(event).is_ok() {
            self.waiting += 1;
        }
    }

    /// Waits until all events are taken, for so long at most.
    pub(super) fn flush(&mut self, most: Duration) {
        let until = Instant::now() + if self.stuck { Duration::ZERO } else { most };
        while self.waiting > 0 {
            match self
                .done
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(()) => self.waiting -= 1,
                Err(RecvTimeoutError::Timeout) => {
                    self.stuck = true;
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => self.waiting = 0,
            }
        }
    }
}
