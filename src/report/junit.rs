//! JUnit XML, as pytest writes it: of a run that hung, and of pytest's own file that lacks what hung.

mod case;
mod document;
mod names;
mod repair;
mod write;

pub use repair::{JunitError, repair};

use crate::model::{Report, RunRecord, TestSource};
use case::{Case, CaseResult, cases};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, Event};
use std::io;
use write::{Places, seconds, write};

/// A JUnit file of a run: finished tests as they ended, the hung ones as errors with the verdict, those that did not
/// run as skipped. Names are pytest's (`--junitxml`, family xunit2), with file and line (from 1) in addition.
///
/// `bundle` is the path of the folder that `report.txt` is in, as the reader of the file is to find it.
#[must_use]
pub fn junit(record: &RunRecord, report: Option<&Report>, bundle: Option<&str>) -> Vec<u8> {
    let cases = cases(record, report, bundle);
    let mut out = Writer::new(Vec::new());
    // Writing to memory cannot fail.
    let _ = whole(&mut out, record, &cases);
    out.into_inner()
}

fn whole(out: &mut Writer<Vec<u8>>, record: &RunRecord, cases: &[Case]) -> io::Result<()> {
    out.write_event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)))?;
    let counts = Counts::of(cases.iter());
    let mut suite = BytesStart::new("testsuite");
    let runner = match record.run.source {
        TestSource::Cargo => "cargo",
        _ => "pytest",
    };
    suite.push_attribute(("name", runner));
    suite.push_attribute(("errors", counts.errors.to_string().as_str()));
    suite.push_attribute(("failures", counts.failures.to_string().as_str()));
    suite.push_attribute(("skipped", counts.skipped.to_string().as_str()));
    suite.push_attribute(("tests", counts.tests.to_string().as_str()));
    suite.push_attribute(("time", seconds(record.took_ms).as_str()));
    suite.push_attribute(("timestamp", record.began.as_str()));
    let mut suites = BytesStart::new("testsuites");
    suites.push_attribute(("name", format!("{runner} tests").as_str()));
    out.write_event(Event::Start(suites))?;
    out.write_event(Event::Start(suite))?;
    for case in cases {
        write(out, case, &case.names.class, Places::FromOne)?;
    }
    out.write_event(Event::End(BytesEnd::new("testsuite")))?;
    out.write_event(Event::End(BytesEnd::new("testsuites")))
}

/// The numbers of a `testsuite`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    tests: u64,
    errors: u64,
    failures: u64,
    skipped: u64,
}

impl Counts {
    fn of<'c>(cases: impl Iterator<Item = &'c Case>) -> Self {
        let mut counts = Self::default();
        for case in cases {
            counts.tests += 1;
            match case.result {
                CaseResult::Passed => {}
                CaseResult::Failure(_) => counts.failures += 1,
                CaseResult::Error(_) => counts.errors += 1,
                CaseResult::Skipped(_) => counts.skipped += 1,
            }
        }
        counts
    }
}
