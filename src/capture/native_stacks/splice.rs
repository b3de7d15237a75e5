//! Which native frame runs which Python frames: the one on whose part of the stack CPython's evaluation function keeps
//! the structure that leads to them.

use crate::capture::python::Evaluation;

/// The part of the stack that a native frame uses: from its stack pointer to its canonical frame address.
pub(super) type Part = (u64, u64);

/// The number of Python frames that each native frame runs.
///
/// # Errors
/// Why that cannot be told: then none of them is placed.
pub(super) fn splice(
    parts: &[Part],
    evaluations: &[Evaluation],
    python_frames: usize,
) -> Result<Vec<usize>, String> {
    let placed: usize = evaluations.iter().map(|one| one.frames).sum();
    if placed != python_frames {
        return Err("the Python frames have changed since they were read".to_owned());
    }
    let mut counts = vec![0; parts.len()];
    let mut from = 0;
    for evaluation in evaluations {
        let holds = |(start, end): &Part| (*start..*end).contains(&evaluation.address);
        let Some(at) = parts
            .iter()
            .skip(from)
            .position(holds)
            .map(|at| at.saturating_add(from))
        else {
            return Err(
                "a call of CPython's evaluation function is not among the native frames".to_owned(),
            );
        };
        if let Some(count) = counts.get_mut(at) {
            *count += evaluation.frames;
        }
        from = at;
    }
    Ok(counts)
}

/// The same where each call of the evaluation function runs one Python frame and nothing tells where it is: by counting those
/// calls among the native frames. If there are as many, the innermost is the innermost.
///
/// # Errors
/// When there are not.
pub(super) fn by_count(
    is_evaluation: impl Iterator<Item = bool>,
    python_frames: usize,
) -> Result<Vec<usize>, String> {
    let counts: Vec<usize> = is_evaluation.map(usize::from).collect();
    let calls: usize = counts.iter().sum();
    if calls == python_frames {
        return Ok(counts);
    }
    Err(format!(
        "{calls} native frames are known to run Python code, for {python_frames} Python frames"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(frames: usize, address: u64) -> Evaluation {
        Evaluation { frames, address }
    }

    #[test]
    fn frames_go_to_the_call_that_runs_them() {
        let parts = [(0x10, 0x20), (0x20, 0x80), (0x80, 0x90), (0x90, 0xf0)];
        let evaluations = [evaluation(7, 0x48), evaluation(2, 0xa0)];
        assert_eq!(splice(&parts, &evaluations, 9), Ok(vec![0, 7, 0, 2]));
    }

    #[test]
    fn what_does_not_fit_is_not_placed() {
        let parts = [(0x10, 0x20), (0x20, 0x80)];
        assert!(splice(&parts, &[evaluation(1, 0x30)], 2).is_err(), "moved");
        assert!(
            splice(&parts, &[evaluation(1, 0x90)], 1).is_err(),
            "unwound too little"
        );
        let wrong_order = [evaluation(1, 0x30), evaluation(1, 0x18)];
        assert!(splice(&parts, &wrong_order, 2).is_err());
        assert_eq!(splice(&parts, &[], 0), Ok(vec![0, 0]));
    }

    #[test]
    fn as_many_calls_as_frames_are_theirs() {
        let calls = [false, true, true, false, true];
        assert_eq!(by_count(calls.into_iter(), 3), Ok(vec![0, 1, 1, 0, 1]));
        assert!(by_count(calls.into_iter(), 2).is_err());
        assert!(by_count(calls.into_iter(), 4).is_err());
        assert_eq!(by_count([].into_iter(), 0), Ok(Vec::new()));
    }
}
