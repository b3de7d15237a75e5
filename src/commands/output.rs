//! Where a report goes, and in which style.

use super::complain;
use crate::cli::{ColorArg, FormatArg, GraphArg};
use crate::exit_code::ExitCode;
use crate::model::{Report, Verdict};
use crate::report::{self, Format, Style};
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// Columns of text that goes to no terminal.
const DEFAULT_WIDTH: usize = 100;

/// What is to be written: a drawing, if one is asked for.
pub(super) fn format(format: FormatArg, graph: Option<GraphArg>) -> Format {
    match (graph, format) {
        (Some(GraphArg::Dot), _) => Format::Dot,
        (Some(GraphArg::Svg), _) => Format::Svg,
        (None, FormatArg::Text) => Format::Text,
        (None, FormatArg::Json) => Format::Json,
        (None, FormatArg::Markdown) => Format::Markdown,
    }
}

/// The width asked for, else that of the terminal that the text goes to, else `COLUMNS`, else 100.
pub(super) fn width(asked: Option<u16>, to: impl AsFd) -> usize {
    let terminal = || {
        let size = rustix::termios::tcgetwinsize(&to).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    };
    let variable = || std::env::var("COLUMNS").ok()?.parse().ok();
    asked
        .map(usize::from)
        .or_else(terminal)
        .or_else(variable)
        .unwrap_or(DEFAULT_WIDTH)
}

/// Writes a report to a file or stdout and says how the command ends.
pub(super) fn write(
    report: &Report,
    format: Format,
    color: ColorArg,
    file: Option<&Path>,
) -> ExitCode {
    let style = style(color, file.is_none());
    let written = match file {
        Some(path) => File::create(path).and_then(|file| {
            let mut out = BufWriter::new(file);
            report::render(format, report, style, &mut out)?;
            out.flush()
        }),
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            report::render(format, report, style, &mut out).and_then(|()| out.flush())
        }
    };
    match written {
        Ok(()) => outcome(report),
        // A reader that has seen enough is a success.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => outcome(report),
        Err(error) => {
            let target =
                file.map_or_else(|| "stdout".to_owned(), |path| path.display().to_string());
            complain(&format!("cannot write the report to {target}: {error}"));
            ExitCode::Usage
        }
    }
}

fn style(color: ColorArg, to_stdout: bool) -> Style {
    let wanted = match color {
        ColorArg::Always => true,
        ColorArg::Never => false,
        ColorArg::Auto => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
            to_stdout && io::stdout().is_terminal() && !no_color && !dumb
        }
    };
    if wanted {
        Style::color()
    } else {
        Style::plain()
    }
}

/// A hang outranks an incomplete report, which outranks success.
pub(super) fn outcome(report: &Report) -> ExitCode {
    if report.analysis.verdict == Verdict::Hang {
        return ExitCode::HangFound;
    }
    let incomplete = report
        .samples
        .iter()
        .flat_map(|sample| &sample.gaps)
        .any(|gap| gap.kind.is_incomplete());
    if incomplete || report.analysis.verdict == Verdict::Unknown {
        ExitCode::Incomplete
    } else {
        ExitCode::Success
    }
}
