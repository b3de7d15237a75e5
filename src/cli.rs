//! The command line, as typed. No behaviour.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const AFTER_HELP: &str = "\
Examples:
  hangscope dump 4242            why does process 4242, or a child of it, hang?
  hangscope dump 4242 --format json -o dump.json
  hangscope analyze dump.json    the same verdict again, elsewhere and offline
  hangscope watch --test-timeout 60s -- pytest -n 4 tests/
  hangscope watch --test-timeout 60s -- cargo nextest run
  hangscope demo                 see a real hang captured and diagnosed

Exit codes of dump and analyze: 0 no hang seen (or only \"slow or stuck\"),
10 hang found, 3 something could not be read, 2 usage, 4 no such process,
5 permission.
watch: the command's own; 124 when a limit ended it, 11 for --fail-on-leak.";

/// Says why a test run hangs.
///
/// hangscope reads a tree of processes (Python, Rust, C) from outside, works out who waits for whom and who holds it, and
/// names the cause with evidence and a remedy. It changes nothing in them; where native stacks are needed it stops a process
/// for some milliseconds, which epoll_wait and reads with a timeout notice (EINTR); `dump --no-native` never does.
#[derive(Debug, Parser)]
#[command(name = "hangscope", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Tell on stderr what is done (twice: in detail).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at a running process and its children now, and say why they hang.
    Dump(DumpArgs),
    /// Run a command; when it hangs, say why, and end it if it has a limit.
    ///
    /// Without a limit hangscope ends nothing; if hangscope itself is killed, the run ends with it. To look at any
    /// time: kill -USR1 (or -QUIT) the hangscope process; the run goes on. INT, TERM and HUP are passed on to the command
    /// when one look is saved. The tests of pytest, cargo test and cargo nextest are followed one by one, with nothing
    /// installed in the project; builds are left alone.
    Watch(WatchArgs),
    /// Run one test for nextest; when nextest ends it, look first.
    ///
    /// For a wrapper script of nextest (scripts.wrapper, run-wrapper) or as cargo's runner: the test gets a process group
    /// of its own, so that nextest's terminate-after (TERM, a grace, KILL) reaches hangscope, which saves a bundle, says
    /// why the test hangs, and passes the signal on. The end of the test is passed on, too: its exit code or signal.
    NextestWrapper(NextestWrapperArgs),
    /// Analyze a saved dump again: the same verdict, without the process.
    Analyze(AnalyzeArgs),
    /// Explain a diagnosis, or list all that hangscope knows.
    Explain(ExplainArgs),
    /// Check what hangscope can read on this machine, and what would help.
    Doctor,
    /// Start a real hang in Python, capture and diagnose it, and clean up.
    Demo(DemoArgs),
    /// Print the JSON schema of a dump.
    #[command(hide = true)]
    Schema,
}

/// `hangscope dump`.
#[derive(Args, Debug)]
pub struct DumpArgs {
    /// Process id.
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,
    /// Only this process, not its descendants.
    #[arg(long)]
    pub no_tree: bool,
    /// With all descendants (the default).
    #[arg(long, conflicts_with = "no_tree")]
    pub tree: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = FormatArg::Text)]
    pub format: FormatArg,
    /// Draw who waits for whom instead: for Graphviz, or as a picture.
    #[arg(long, value_enum, conflicts_with = "format")]
    pub graph: Option<GraphArg>,
    /// Write to this file instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Number of looks; one cannot tell slow from stuck. Default: 3 if anything waits, else 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub samples: Option<u32>,
    /// Time between looks, such as 500ms or 2s.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub interval: Duration,
    /// Show the whole stack of every thread, with full paths.
    #[arg(long)]
    pub all: bool,
    /// Read and show local variables (off by default: they may hold secrets).
    #[arg(long)]
    pub locals: bool,
    /// Stop each process while its memory is read, for half a second at most. Not needed for a hang; for a process that
    /// never stands still. Some waits are interrupted by it, and timed ones look restarted afterwards.
    #[arg(long)]
    pub stop: bool,
    /// Native stacks (C, C++, Rust) of every process: at the end each is stopped for some milliseconds, in which registers
    /// and stacks are copied. Default: of programs other than Python, and where a hang cannot be told without them.
    #[arg(long, conflicts_with = "no_native")]
    pub native: bool,
    /// No native stacks, and so no stop.
    #[arg(long)]
    pub no_native: bool,
    /// Native stacks without a stop: of waiting threads only, with some registers guessed; frames that may be wrong are
    /// marked.
    #[arg(long, conflicts_with_all = ["stop", "no_native"])]
    pub no_stop: bool,
    /// Columns of the text; default: the terminal's, else 100.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(40..=1000))]
    pub width: Option<u16>,
    /// Colour: auto, always, never. NO_COLOR is respected.
    #[arg(long, value_enum, default_value_t = ColorArg::Auto)]
    pub color: ColorArg,
}

/// `hangscope watch`.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Dump a test that takes longer, setup and teardown included, and make it fail (60s, 2m, 1h30m; a plain number is
    /// seconds). A mark hangscope(timeout=…) or timeout(…) on a test goes before this.
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub test_timeout: Option<Duration>,
    /// Dump and end the run when for so long no test began or ended and none of its processes got further.
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub idle_timeout: Option<Duration>,
    /// Dump and end the run after this time.
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub run_timeout: Option<Duration>,
    /// What to do with a test over --test-timeout: make it fail, by the mildest means that works, and go on with the
    /// other tests; or end the run.
    #[arg(long, value_enum, default_value_t = OnHangArg::Continue)]
    pub on_hang: OnHangArg,
    /// Time between one means of ending something and the next harder one.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    pub grace: Duration,
    /// Dump once, and end nothing, when for so long no test began or ended and nothing got further; 0 for never.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    pub report_after: Duration,
    /// Folder that bundles are written to.
    #[arg(long, value_name = "DIR", default_value = ".hangscope")]
    pub archive: PathBuf,
    /// Write no bundles.
    #[arg(long, conflicts_with = "archive")]
    pub no_archive: bool,
    /// Exit code when a limit ended the run.
    #[arg(long, value_name = "CODE", default_value_t = 124)]
    pub hang_exit_code: u8,
    /// Number of samples [default: 1, and 2 more if anything waits].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub samples: Option<u32>,
    /// Pause between samples.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "500ms")]
    pub interval: Duration,
    /// Exit with 11 when the command succeeded and tests left such things behind.
    #[arg(long, value_enum, value_name = "KINDS", value_delimiter = ',')]
    pub fail_on_leak: Vec<LeakArg>,
    /// When to show what the tests left behind; auto: when a limit was reached or --fail-on-leak found something.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = InventoryArg::Auto)]
    pub inventory: InventoryArg,
    /// Write what the tests left behind to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub inventory_json: Option<PathBuf>,
    /// Write the results of all tests to this file, as JUnit XML, whatever happens to the run.
    #[arg(long, value_name = "FILE")]
    pub junitxml: Option<PathBuf>,
    /// Do not load hangscope's plugin into pytest; tests are then named from the environment of the processes.
    #[arg(long)]
    pub no_plugin: bool,
    /// No status line for slow tests on a terminal.
    #[arg(long)]
    pub no_status: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `hangscope nextest-wrapper`.
#[derive(Args, Clone, Debug)]
pub struct NextestWrapperArgs {
    /// Folder that bundles are written to; a relative one is in nextest's workspace [default: .hangscope].
    #[arg(long, value_name = "DIR")]
    pub archive: Option<PathBuf>,
    /// Write no bundles.
    #[arg(long, conflicts_with = "archive")]
    pub no_archive: bool,
    /// The test binary and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "BINARY")]
    pub command: Vec<OsString>,
}

/// `hangscope analyze`.
#[derive(Args, Debug)]
pub struct AnalyzeArgs {
    /// A dump made with --format json, or - for stdin.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t = FormatArg::Text)]
    pub format: FormatArg,
    /// Draw who waits for whom instead: for Graphviz, or as a picture.
    #[arg(long, value_enum, conflicts_with = "format")]
    pub graph: Option<GraphArg>,
    /// Write to this file instead of stdout.
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Show the whole stack of every thread.
    #[arg(long)]
    pub all: bool,
    /// Colour: auto, always, never. NO_COLOR is respected.
    #[arg(long, value_enum, default_value_t = ColorArg::Auto)]
    pub color: ColorArg,
}

/// `hangscope explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Id of a diagnosis, as a report names it; without it, all are listed.
    #[arg(value_name = "ID")]
    pub id: Option<String>,
}

/// `hangscope demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// The Python to use; default: the best that is found.
    #[arg(long, value_name = "PROGRAM")]
    pub python: Option<PathBuf>,
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// For people.
    Text,
    /// For programs, in the schema hangscope/1.
    Json,
    /// For job summaries and comments.
    Markdown,
}

/// How the wait-for graph is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphArg {
    /// For Graphviz: dot -Tpng graph.dot.
    Dot,
    /// A picture for a browser.
    Svg,
}

/// What to do with a test over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnHangArg {
    /// Make it fail and go on.
    Continue,
    /// End the run.
    End,
}

/// What a test may leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LeakArg {
    /// Threads that Python's threading knows.
    Threads,
    /// Any threads.
    OsThreads,
    /// Sub-interpreters.
    Interpreters,
    /// Child processes.
    Children,
    /// Open file descriptors.
    Fds,
    /// All of these.
    All,
}

/// When to show the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InventoryArg {
    /// When a limit was reached or something leaked that must not.
    Auto,
    /// At the end of every run.
    Always,
    /// Not at all.
    Never,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A limit as users write it; none at all is written by leaving the option out.
fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("leave the option out for no limit".to_owned()),
        limit => Ok(limit),
    }
}

/// A time as users write it: `60s`, `2m`, `1h30m`, `500ms`; a bare number is seconds.
///
/// # Errors
/// A sentence for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds)
            .map_err(|_| format!("{text} is not a time; write 60s, 2m or 1h30m"));
    }
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("{text} is not a time; write 60s, 2m or 1h30m"))?;
    Duration::try_from(span).map_err(|_| "a time cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_as_users_write_them() {
        for (text, ms) in [
            ("60", 60_000),
            ("60s", 60_000),
            ("1.5", 1500),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("2m", 120_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "x", "-1", "-5s", "NaN", "inf", "1e300"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
