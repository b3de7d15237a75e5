//! What the tests left behind, chosen and worded; the formats differ only in how they draw it.

use crate::model::{Birth, Counted, Counts, Foreign, Inventory, LeftKind, TestInventory, Trend};

/// Most rows of a table.
const MAX_ROWS: usize = 12;
/// Up to this growth per 1,000 tests, at the far end of what is likely, we say that nothing accumulated.
const SMALL: i64 = 100;
/// A number that rose once or twice, as when a fixture of the session starts a pool, and not again in so many tests,
/// has not accumulated either; its few large steps only make the interval wide.
const FEW_RISES: usize = 2;
const QUIET_TESTS: usize = 10;
/// From fewer tests an interval would be noise.
const FEW_TESTS: usize = 5;

/// The table, not drawn yet. All text in it is foreign.
pub(super) struct Chosen<'i> {
    /// Kinds that have a column.
    pub(super) kinds: Vec<LeftKind>,
    /// Rows in the order of the run.
    pub(super) rows: Vec<&'i TestInventory>,
    /// Changed tests without a row.
    pub(super) more: usize,
    /// Tests without a change.
    pub(super) others: usize,
}

/// Chooses rows and columns.
pub(super) fn choose(inventory: &Inventory) -> Chosen<'_> {
    let mut order: Vec<(usize, &TestInventory)> = inventory.changed.iter().enumerate().collect();
    // Those that did not end are what the table is read for.
    order.sort_by_key(|(_, test)| std::cmp::Reverse((test.after.is_none(), size_of(test))));
    order.truncate(MAX_ROWS);
    order.sort_by_key(|(at, _)| *at);
    let rows: Vec<&TestInventory> = order.into_iter().map(|(_, test)| test).collect();
    let changes = |kind: LeftKind| rows.iter().any(|test| delta(test, kind) != 0);
    // OS threads repeat what the threads say, unless a native library made or ended some.
    let differ = rows.iter().any(|test| {
        delta(test, LeftKind::OsThread) != delta(test, LeftKind::Thread)
            && test.before.os_threads.is_some()
    });
    let kinds = LeftKind::ALL
        .into_iter()
        .filter(|kind| match kind {
            LeftKind::Thread => rows.iter().any(|test| test.before.threads.is_some()),
            LeftKind::OsThread => differ,
            other => changes(*other),
        })
        .collect();
    let is_counted = |test: &&TestInventory| {
        let both = |after: &Counts| {
            let mut kinds = LeftKind::ALL.into_iter();
            kinds.any(|kind| test.before.get(kind).is_some() && after.get(kind).is_some())
        };
        test.after.as_ref().is_some_and(both)
    };
    let counted = inventory.changed.iter().filter(is_counted).count();
    Chosen {
        kinds,
        more: inventory.changed.len().saturating_sub(rows.len()),
        rows,
        others: inventory.tests.saturating_sub(counted),
    }
}

fn delta(test: &TestInventory, kind: LeftKind) -> i64 {
    let after = test.after.as_ref().and_then(|after| after.get(kind));
    match (test.before.get(kind), after) {
        (Some(before), Some(after)) => i64::from(after) - i64::from(before),
        _ => 0,
    }
}

fn size_of(test: &TestInventory) -> i64 {
    let all = LeftKind::ALL
        .into_iter()
        .map(|kind| delta(test, kind).abs());
    let counted: i64 = all.sum();
    counted.max(i64::try_from(test.left.len()).unwrap_or(i64::MAX))
}

/// "2 → 3"; "3 → ?" for a test that did not end; nothing for what was not counted.
pub(super) fn change(before: &Counts, after: Option<&Counts>, kind: LeftKind) -> String {
    let Some(from) = before.get(kind) else {
        return String::new();
    };
    match after.and_then(|after| after.get(kind)) {
        Some(to) => format!("{from} → {to}"),
        None => format!("{from} → ?"),
    }
}

/// Heading of a column.
pub(super) fn heading(kind: LeftKind) -> &'static str {
    match kind {
        LeftKind::Thread => "threads",
        LeftKind::OsThread => "OS threads",
        LeftKind::Interpreter => "interpreters",
        LeftKind::Child => "children",
        LeftKind::Fd => "fds",
    }
}

/// "thread idle-nd (tid 42)", "interpreter 1".
pub(super) fn thing(birth: &Birth) -> Foreign {
    let name = birth.name.as_ref().map(Foreign::untrusted);
    let id = birth.id;
    let text = match (birth.kind, name) {
        (LeftKind::Thread, Some(name)) => format!("thread {name} (tid {id})"),
        (LeftKind::Thread, None) => format!("thread {id}"),
        (LeftKind::OsThread, Some(name)) => format!("OS thread {name} (tid {id})"),
        (LeftKind::OsThread, None) => format!("OS thread {id}"),
        (LeftKind::Interpreter, _) => format!("interpreter {id}"),
        (LeftKind::Child, Some(name)) => format!("process {name} ({id})"),
        (LeftKind::Child, None) => format!("process {id}"),
        (LeftKind::Fd, Some(name)) => format!("fd {id} {name}"),
        (LeftKind::Fd, None) => format!("fd {id}"),
    };
    Foreign::from(text)
}

/// The same in few words, alike things together: "thread idle-nd", "3 × thread worker".
pub(super) fn things_in_short(left: &[Birth]) -> Vec<Foreign> {
    let mut out: Vec<(String, usize)> = Vec::new();
    for birth in left {
        let word = match birth.kind {
            LeftKind::Thread => "thread",
            LeftKind::OsThread => "OS thread",
            LeftKind::Interpreter => "interpreter",
            LeftKind::Child => "process",
            LeftKind::Fd => "fd",
        };
        let text = match &birth.name {
            Some(name) => format!("{word} {}", name.untrusted()),
            None => format!("{word} {}", birth.id),
        };
        match out.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => out.push((text, 1)),
        }
    }
    let counted = |(text, count): (String, usize)| match count {
        1 => Foreign::from(text),
        _ => Foreign::from(format!("{count} × {text}")),
    };
    out.into_iter().map(counted).collect()
}

/// Whether numbers grew, and how they came about; our own words only.
pub(super) fn conclusions(inventory: &Inventory) -> Vec<String> {
    let mut out = Vec::new();
    let mut steady: Vec<&Trend> = Vec::new();
    for trend in &inventory.trends {
        let noun = noun(trend.kind);
        if trend.accumulates {
            out.push(format!(
                "{noun} accumulate: {} a test over {} tests: a leak that grows.",
                rate(trend),
                trend.tests
            ));
        } else if trend.per_1000_tests.saturating_add(trend.uncertainty) < SMALL
            || has_settled(trend)
        {
            steady.push(trend);
        } else if trend.tests < FEW_TESTS {
            out.push(format!(
                "whether {noun} accumulate cannot be told from {} tests.",
                trend.tests
            ));
        } else {
            out.push(format!(
                "whether {noun} accumulate cannot be told: {} a test over {} tests.",
                rate(trend),
                trend.tests
            ));
        }
    }
    if let Some(tests) = steady.iter().map(|trend| trend.tests).min() {
        let subject = if steady.len() == inventory.trends.len() {
            "no accumulation"
        } else {
            "no other accumulation"
        };
        out.push(format!(
            "{subject} over {tests} tests: {}: this is not a leak that grew.",
            rises(&steady)
        ));
    }
    out.push(how(inventory.how).to_owned());
    out
}

fn has_settled(trend: &Trend) -> bool {
    let few = trend.rises <= FEW_RISES && trend.tests_since_rise >= QUIET_TESTS;
    // A pool that has come to its size: it rose in the first half of the run, and not in the second.
    let filled = trend.tests >= QUIET_TESTS && trend.tests_since_rise * 2 >= trend.tests;
    few || filled
}

/// What is said of numbers that did not accumulate: "0.03 ± 0.06 threads a test (rose once, 27 tests ago), fds never rose".
fn rises(steady: &[&Trend]) -> String {
    let threads = steady.iter().find(|trend| trend.kind == LeftKind::Thread);
    // OS threads that do as the threads do are no news.
    let repeats = |trend: &Trend| {
        trend.kind == LeftKind::OsThread
            && threads.is_some_and(|threads| {
                (threads.per_1000_tests, threads.rises) == (trend.per_1000_tests, trend.rises)
            })
    };
    let told = steady.iter().filter(|trend| !repeats(trend));
    let (rose, flat): (Vec<&Trend>, Vec<&Trend>) = told.partition(|trend| trend.rises > 0);
    let mut parts: Vec<String> = rose
        .iter()
        .map(|trend| {
            format!(
                "{} {} a test {}",
                rate(trend),
                noun(trend.kind),
                steps(trend)
            )
        })
        .collect();
    let flat: Vec<&str> = flat.iter().map(|trend| noun(trend.kind)).collect();
    if let Some((last, first)) = flat.split_last() {
        let names = if first.is_empty() {
            (*last).to_owned()
        } else {
            format!("{} and {last}", first.join(", "))
        };
        parts.push(format!("{names} never rose"));
    }
    parts.join(", ")
}

/// Why a number that rose did not accumulate.
fn steps(trend: &Trend) -> String {
    let times = match trend.rises {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        rises => format!("{rises} times"),
    };
    let ago = match trend.tests_since_rise {
        0 => "after the last one".to_owned(),
        1 => "last 1 test ago".to_owned(),
        tests => format!("last {tests} tests ago"),
    };
    format!("(rose {times}, {ago})")
}

fn how(counted: Counted) -> &'static str {
    match counted {
        Counted::Inside => "Counted inside the processes, before and after each test.",
        Counted::Sampled => {
            "Sampled from outside, now and then: what came and went in between was not seen."
        }
    }
}

/// The one sentence of an inventory that has no table; `None` if it has one.
pub(super) fn nothing(inventory: &Inventory) -> Option<String> {
    if inventory.tests == 0 && inventory.changed.is_empty() {
        return Some("no test was counted before and after".to_owned());
    }
    inventory.changed.is_empty().then(|| {
        let tests = match inventory.tests {
            1 => "1 test".to_owned(),
            count => format!("{count} tests"),
        };
        format!("no test left anything behind ({tests})")
    })
}

fn noun(kind: LeftKind) -> &'static str {
    match kind {
        LeftKind::Thread => "threads",
        LeftKind::OsThread => "OS threads",
        LeftKind::Interpreter => "interpreters",
        LeftKind::Child => "child processes",
        LeftKind::Fd => "fds",
    }
}

/// "0.98 ± 0.05"; small numbers with a digit more.
fn rate(trend: &Trend) -> String {
    let mean = trend.per_1000_tests as f64 / 1000.0;
    let uncertainty = trend.uncertainty as f64 / 1000.0;
    let is_small = |number: i64| (1..50).contains(&number.saturating_abs());
    if is_small(trend.per_1000_tests) || is_small(trend.uncertainty) {
        format!("{mean:.3} ± {uncertainty:.3}")
    } else {
        format!("{mean:.2} ± {uncertainty:.2}")
    }
}
