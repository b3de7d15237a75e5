//! Whether a number grew over a run.

use crate::model::{LeftKind, Trend};

/// 97.5 % points of Student's t for 1 to 8 degrees of freedom, where the series below is too coarse.
const FEW: [f64; 8] = [
    12.706_205, 4.302_653, 3.182_446, 2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004,
];
/// 97.5 % point of the normal distribution.
const NORMAL: f64 = 1.959_964;
/// How many tests must have left something: one fixture that starts a pool is no growth.
const CONTRIBUTORS: usize = 3;

/// The mean change per test with its 95 % confidence interval, from the change of each test.
///
/// The interval is Student's: the spread is not known but estimated from the tests themselves, and a run may
/// have five of them, where the normal distribution would be far too sure. `None` for fewer than two tests,
/// which have no spread.
pub(super) fn trend(kind: LeftKind, changes: impl IntoIterator<Item = i64>) -> Option<Trend> {
    let (mut tests, mut rises, mut since_rise) = (0_usize, 0_usize, 0_usize);
    // Whole numbers, so that the order of the tests cannot matter.
    let (mut sum, mut squares) = (0_i128, 0_i128);
    for change in changes {
        tests += 1;
        rises += usize::from(change > 0);
        since_rise = if change > 0 { 0 } else { since_rise + 1 };
        sum += i128::from(change);
        squares += i128::from(change) * i128::from(change);
    }
    if tests < 2 {
        return None;
    }
    let count = i128::try_from(tests).ok()?;
    // The spread of the mean, squared: (n·Σx² − (Σx)²) / (n²·(n − 1)).
    let spread = as_f64(count * squares - sum * sum) / as_f64(count * count * (count - 1));
    let mean = as_f64(sum) / as_f64(count);
    let half = student(tests - 1) * spread.sqrt();
    Some(Trend {
        kind,
        tests,
        per_1000_tests: rounded(mean * 1000.0),
        uncertainty: rounded(half * 1000.0),
        rises,
        tests_since_rise: since_rise,
        // A pool that has come to its size, or a cache that has filled, rose for a while, too.
        accumulates: mean - half > 0.0 && rises >= CONTRIBUTORS && since_rise * 2 < tests,
    })
}

/// The 97.5 % point of Student's t distribution (Cornish-Fisher series, Abramowitz & Stegun 26.7.5).
fn student(freedom: usize) -> f64 {
    if let Some(exact) = freedom.checked_sub(1).and_then(|index| FEW.get(index)) {
        return *exact;
    }
    let (z, v) = (NORMAL, as_f64(freedom as i128));
    let g1 = (z.powi(3) + z) / 4.0;
    let g2 = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let g3 = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + g1 / v + g2 / v.powi(2) + g3 / v.powi(3)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a statistic with four digits needs no more than the 53 bits of an f64"
)]
fn as_f64(number: i128) -> f64 {
    number as f64
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a float too large for an i64 becomes the largest one"
)]
fn rounded(number: f64) -> i64 {
    number.round() as i64
}

#[cfg(test)]
mod tests {
    use super::{student, trend};
    use crate::model::LeftKind;
    use proptest::prelude::*;

    fn of(changes: &[i64]) -> (i64, i64, bool) {
        trend(LeftKind::Thread, changes.iter().copied()).map_or((0, 0, false), |trend| {
            assert_eq!(trend.tests, changes.len());
            (trend.per_1000_tests, trend.uncertainty, trend.accumulates)
        })
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, expected) in [
            (1, 12.7062),
            (4, 2.7764),
            (5, 2.5706),
            (9, 2.2622),
            (30, 2.0423),
            (1000, 1.9623),
        ] {
            let found = student(freedom);
            assert!((found - expected).abs() < 0.0006, "{freedom}: {found}");
        }
    }

    #[test]
    fn two_tests_may_agree_by_chance_and_one_has_no_spread() {
        assert!(trend(LeftKind::Fd, [5]).is_none() && trend(LeftKind::Fd, []).is_none());
        assert_eq!(of(&[1, 1]), (1000, 0, false));
        assert_eq!(of(&[1, 1, 1]), (1000, 0, true));
    }

    #[test]
    fn a_leak_in_each_third_test_grows() {
        let changes: Vec<i64> = (0..90).map(|test| i64::from(test % 3 == 0)).collect();
        let (mean, uncertainty, accumulates) = of(&changes);
        // By hand: p = 1/3, spread sqrt(p(1-p)/89) = 0.04997, t(89) = 1.98698.
        assert_eq!((mean, uncertainty, accumulates), (333, 99, true));
    }

    #[test]
    fn what_swings_more_than_it_rises_does_not_grow() {
        // By hand: sum 3, squares 123, spread sqrt((6*123 - 9) / (36*5)) = 2.0125, t(5) = 2.5706.
        assert_eq!(of(&[5, -4, 5, -4, 5, -4]), (500, 5173, false));
    }

    #[test]
    fn a_number_that_shrinks_does_not_grow() {
        assert_eq!(of(&[-2; 50]), (-2000, 0, false));
    }

    proptest! {
        #[test]
        fn nothing_changes(tests in 2usize..5000) {
            prop_assert_eq!(of(&vec![0; tests]), (0, 0, false));
        }

        #[test]
        fn each_test_leaves_one(tests in 3usize..5000) {
            prop_assert_eq!(of(&vec![1; tests]), (1000, 0, true));
        }

        #[test]
        fn one_leak_among_many_is_not_growth(tests in 2usize..5000, at in any::<prop::sample::Index>(), size in 1i64..1_000_000) {
            let mut changes = vec![0; tests];
            changes[at.index(tests)] = size;
            prop_assert!(!of(&changes).2);
        }

        #[test]
        fn symmetrical_noise_is_not_growth(noise in prop::collection::vec(-1000i64..1000, 1..500)) {
            let changes: Vec<i64> = noise.iter().flat_map(|&change| [change, -change]).collect();
            let (mean, _, accumulates) = of(&changes);
            prop_assert_eq!((mean, accumulates), (0, false));
        }

        #[test]
        fn the_order_of_tests_does_not_matter(changes in prop::collection::vec(any::<i32>(), 2..200), by in any::<prop::sample::Index>()) {
            let changes: Vec<i64> = changes.into_iter().map(i64::from).collect();
            let mut turned = changes.clone();
            turned.rotate_left(by.index(changes.len()));
            turned.reverse();
            prop_assert_eq!(of(&changes), of(&turned));
        }
    }
}
