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
        let Some(rest) = entry.strip_prefix(UNFINISHED) else {
            continue;
        };
        if Name::parse(rest).is_some() {
            let folder = archive.open_in(entry);
            if folder.is_ok_and(|folder| matches!(folder.is_held(), Ok(false))) {
                let _ = archive.remove_flat_folder(entry);
            }
        } else if let Some(pid) = rest
            .strip_prefix("latest-")
            .and_then(|pid| pid.parse().ok())
            && !is_alive(pid)
        {
            // A link, which a live writer in another pid namespace can do without.
            let _ = archive.remove(entry);
        }
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
