//! tmp
/// x
pub fn main() -> crate::exit_code::ExitCode {
    let pid = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(0);
    let r = crate::inspect::inspect(&crate::inspect::Request{pid, tree:true, samples: crate::inspect::Samples::Exactly(1), interval: std::time::Duration::from_millis(500), all:false, width:100, trigger: crate::model::Trigger::Dump, exclude: vec![]}, &mut |_| true);
    match r { Ok(r) => println!("{}", serde_json::to_string_pretty(&r).unwrap_or_default()), Err(e) => eprintln!("{e}") }
    crate::exit_code::ExitCode::Success
}
