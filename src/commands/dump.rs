//! `hangscope dump PID`.

use super::{complain, output};
use crate::capture::CaptureError;
use crate::cli::DumpArgs;
use crate::exit_code::ExitCode;
use crate::inspect::{Native, Request, Samples, inspect};
use crate::model::Trigger;

impl From<&DumpArgs> for Request {
    fn from(args: &DumpArgs) -> Self {
        Self {
            pid: args.pid,
            tree: !args.no_tree,
            samples: args.samples.map_or(Samples::Auto, Samples::Exactly),
            interval: args.interval,
            locals: args.locals,
            stop: args.stop,
            native: match (args.native, args.no_native) {
                (true, _) => Native::Always,
                (_, true) => Native::Never,
                _ => Native::Auto,
            },
            no_stop: args.no_stop,
            all: args.all,
            width: output::width(args.width, std::io::stdout()),
            trigger: Trigger::Dump,
            run: None,
            exclude: Vec::new(),
        }
    }
}

pub(super) fn run(args: &DumpArgs) -> ExitCode {
    let own_pid = i32::try_from(std::process::id()).unwrap_or(0);
    if args.pid == own_pid {
        complain("cannot dump itself");
        return ExitCode::Usage;
    }
    let mut request = Request::from(args);
    // A dump of an ancestor, such as the shell, would otherwise show hangscope at work.
    request.exclude.push(own_pid);
    match inspect(&request, &mut |_| true) {
        Ok(report) => output::write(
            &report,
            output::format(args.format, args.graph),
            args.color,
            args.output.as_deref(),
        ),
        Err(error) => refuse(&error),
    }
}

/// One line that says why there is nothing to show, and what helps.
pub(super) fn refuse(error: &CaptureError) -> ExitCode {
    let mut message = error.to_string();
    if let CaptureError::Denied { denied, .. } = error {
        for line in &denied.remedies {
            message.push_str("\n  ");
            message.push_str(line);
        }
    }
    complain(&message);
    match error {
        CaptureError::NoSuchProcess(_) | CaptureError::Gone(_) | CaptureError::Zombie(_) => {
            ExitCode::NoSuchProcess
        }
        CaptureError::Denied { .. } => ExitCode::Permission,
        CaptureError::KernelThread(_) => ExitCode::Usage,
        CaptureError::Proc { .. } => ExitCode::Incomplete,
    }
}
