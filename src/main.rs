//! The `hangscope` command.

fn main() -> std::process::ExitCode {
    hangscope::commands::main().into()
}
