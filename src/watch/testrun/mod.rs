//! What the tests of a watched run are doing, from what their processes write down of it.
//!
//! The pytest plugin (`src/watch/probe`) writes records into one [ring](ring) file per process, in a
//! [folder](runfolder) of the run. [`Rings`] reads them, the [`Tracker`] makes the run of them. Both sides of
//! a ring may be hostile or dead: nothing that stands in it can harm the watcher, and nothing is asked of the
//! target. Tests of Rust, and of pytest without the plugin, are seen from outside.

mod births;
mod collected;
mod inventory;
mod item;
mod limit;
mod news;
mod observe;
mod record;
mod report;
mod ring;
mod rings;
mod runfolder;
mod runner;
mod rust;
mod steps;
mod tracker;
mod trend;

#[cfg(test)]
mod observe_tests;
#[cfg(test)]
mod ring_tests;
#[cfg(test)]
mod rings_tests;
#[cfg(test)]
mod rust_tests;
#[cfg(test)]
mod tracker_tests;
#[cfg(test)]
mod writer;

pub(crate) use limit::{Mark, TestLimit};
pub(crate) use news::Who;
pub(crate) use observe::Observation;
pub(crate) use rings::{Rings, now_ns};
pub(crate) use runfolder::{RUN_VARIABLE, RunFolder, environment, remove_folder};
pub(crate) use tracker::{Running, Tracker};
