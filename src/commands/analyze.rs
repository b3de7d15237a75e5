//! `hangscope analyze FILE`.

use super::{complain, output};
use crate::cli::AnalyzeArgs;
use crate::exit_code::ExitCode;
use crate::inspect::reanalyze;
use crate::model::{Report, SCHEMA};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest file that is read.
const MAX_FILE: u64 = 256 << 20;

pub(super) fn run(args: &AnalyzeArgs) -> ExitCode {
    match load(&args.file) {
        Ok(mut report) => {
            if report.tool.version != env!("CARGO_PKG_VERSION") {
                complain(&format!(
                    "{} was written by version {}; the verdict below is that of version {}",
                    args.file.display(),
                    crate::report::clean(&report.tool.version.as_str().into()),
                    env!("CARGO_PKG_VERSION")
                ));
            }
            report.options.all |= args.all;
            let report = reanalyze(report);
            output::write(
                &report,
                output::format(args.format, args.graph),
                args.color,
                args.output.as_deref(),
            )
        }
        Err(reason) => {
            // The reason may quote the file.
            let reason = crate::report::clean(&reason.into());
            complain(&format!("cannot analyze {}: {reason}", args.file.display()));
            ExitCode::Usage
        }
    }
}

fn load(path: &Path) -> Result<Report, String> {
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).map_err(|error| error.to_string())?;
        if file.metadata().is_ok_and(|meta| meta.is_dir()) {
            return Err("it is a folder; name the dump.json in it".to_owned());
        }
        Box::new(file)
    };
    source
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err("it is larger than 256 MiB".to_owned());
    }
    parse(&bytes)
}

/// Parses a dump. The schema is looked at first, so that another kind of file is named as such.
fn parse(bytes: &[u8]) -> Result<Report, String> {
    #[derive(serde::Deserialize)]
    struct Head {
        schema: Option<String>,
    }
    // serde_json itself stops at a depth of 128.
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is not a hangscope dump ({error})"))?;
    match head.schema.as_deref() {
        Some(SCHEMA) => {}
        Some(other) => {
            let other = crate::report::clean(&other.into());
            return Err(format!(
                "its schema is {other:?}, this version reads {SCHEMA:?}"
            ));
        }
        None => {
            return Err(format!(
                "it has no schema; a dump starts with \"schema\": {SCHEMA:?}"
            ));
        }
    }
    serde_json::from_slice(bytes).map_err(|error| format!("it is damaged ({error})"))
}
