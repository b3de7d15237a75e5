//! `hangscope explain [ID]`.

use super::{complain, print};
use crate::analysis::detectors::causes;
use crate::cli::ExplainArgs;
use crate::exit_code::ExitCode;

pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    let Some(id) = &args.id else {
        let mut text =
            String::from("Diagnoses that hangscope knows (hangscope explain ID tells more):\n\n");
        for cause in causes() {
            text.push_str(&format!("{}\n    {}\n", cause.id, cause.summary));
        }
        return print(&text);
    };
    match causes().find(|cause| cause.id == id) {
        Some(cause) => print(cause.page),
        None => {
            let near = causes()
                .map(|cause| cause.id)
                .find(|known| known.contains(id.as_str()));
            let hint = near.map_or_else(
                || "hangscope explain lists all".to_owned(),
                |near| format!("did you mean {near}?"),
            );
            complain(&format!("no diagnosis is called {id:?}; {hint}"));
            ExitCode::Usage
        }
    }
}
