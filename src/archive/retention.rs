//! Keeps the archive small: only the newest bundles stay.

use super::folder::Folder;
use super::name::Name;
use std::path::Path;

/// How many bundles are kept.
pub(super) const KEPT: usize = 20;

/// What the name of a bundle in the making starts with.
pub(super) const UNFINISHED: &str = ".tmp-";

/// Deletes the oldest bundles beyond [`KEPT`], and what dead writers left unfinished. Only folders whose
/// names are exactly of our form are touched, and no link is followed. Failures are not told: too many
/// bundles are a smaller evil than a warning in each run.
pub(super) fn clean(archive: &Folder) {
    let entries = archive.entries().unwrap_or_default();
    let mut bundles: Vec<Name> = entries
        .iter()
        .filter_map(|entry| Name::parse(entry))
        .collect();
    bundles.sort();
    let surplus = bundles.len().saturating_sub(KEPT);
    for bundle in bundles.iter().take(surplus) {
        let _ = archive.remove_flat_folder(&bundle.text());
    }
    for entry in &entries {
        let Some(name) = entry.strip_prefix(UNFINISHED).and_then(Name::parse) else {
            continue;
        };
        // Seen from another pid namespace a live writer looks dead: so only what is older than all that is kept.
        let old = bundles.get(surplus).is_some_and(|oldest| name < *oldest);
        if old && !Path::new("/proc").join(name.pid().to_string()).exists() {
            let _ = archive.remove_flat_folder(entry);
        }
    }
}
