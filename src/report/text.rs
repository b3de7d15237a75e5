//! Text for people: the answer first, then the evidence, the remedy, and all threads.

mod findings;
mod holding;
mod inventory;
mod layout;
mod signals;
mod stacks;
mod tasks;
mod threads;

pub use inventory::inventory;
pub(super) use tasks::place as place_of_task;
pub(super) use threads::{doing, place as place_of_thread};

use super::{Renderer, Style};
use crate::model::{Finding, Report};
use layout::Page;
use std::io::{self, Write};

pub(super) struct Text {
    pub(super) style: Style,
}

impl Renderer for Text {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let mut page = Page::new(report.options.width);
        findings::write(&mut page, self.style, report);
        threads::write(&mut page, self.style, report);
        out.write_all(page.finish().as_bytes())
    }
}

/// These findings, as in the text report; nothing if there are none.
pub(super) fn these(report: &Report, findings: &[&Finding]) -> String {
    let mut page = Page::new(report.options.width);
    if let Some(last) = report.samples.last() {
        findings::write_all(
            &mut page,
            Style::plain(),
            report,
            last,
            findings,
            findings::Told::Cause,
        );
    }
    page.finish()
}

/// The answer without the threads, as in the text report.
pub(super) fn answer(report: &Report) -> String {
    let mut page = Page::new(report.options.width);
    findings::write(&mut page, Style::plain(), report);
    page.finish()
}

/// Each process with its threads, as in the text report.
pub(super) fn processes(report: &Report) -> impl Iterator<Item = String> {
    let context = threads::Context::of(report);
    let last = report.samples.last().into_iter();
    last.flat_map(|last| &last.processes).map(move |process| {
        let mut page = Page::new(report.options.width);
        threads::write_one(&mut page, Style::plain(), report, &context, process);
        page.finish()
    })
}
