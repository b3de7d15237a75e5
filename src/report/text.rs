//! Text for people: the answer first, then the evidence, the remedy, and all threads.

mod findings;
mod layout;
mod threads;

use super::{Renderer, Style};
use crate::model::Report;
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
