//! Creation of an ext4 image with real files.

use crate::interrupt;
use crate::tools::{command, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Files larger than this fraction of the budget are skipped, as they would dominate the disk.
const LARGEST_PART: u64 = 16;

/// Creates an ext4 image of `size` bytes with about `budget` bytes of files from `from`, which are
/// copied to a temporary directory next to it.
pub(crate) fn ext4(image: &Path, size: u64, budget: u64, from: &Path) -> Result<()> {
    let parent = image.parent().unwrap_or(Path::new("."));
    let dir = tempfile::tempdir_in(parent).context("cannot create a directory for the files")?;
    for (name, _) in select(from, budget)? {
        interrupt::check()?;
        let to = dir.path().join(name.strip_prefix(from)?);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        // Unreadable files are skipped.
        let _ = fs::copy(&name, &to);
    }
    let mut mkfs = command("mkfs.ext4");
    mkfs.args(["-q", "-F", "-d"]).arg(dir.path()).arg(image).arg(format!("{}k", size >> 10));
    run(&mut mkfs)
}

/// Selects files of `budget` bytes in total, spread evenly over `from`. Deterministic.
fn select(from: &Path, budget: u64) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    list(from, &mut files);
    files.retain(|(_, len)| *len <= budget / LARGEST_PART);
    files.sort();
    let total: u64 = files.iter().map(|(_, len)| len).sum();
    Ok(spread(files, budget, total))
}

/// Selects files evenly: after each file, the selected part of `budget` is proportional to the part
/// of
/// `total` that was seen.
fn spread(files: Vec<(PathBuf, u64)>, budget: u64, total: u64) -> Vec<(PathBuf, u64)> {
    let (mut seen, mut taken) = (0u64, 0u64);
    let due = |seen: u64| (u128::from(budget) * u128::from(seen) / u128::from(total.max(1))) as u64;
    let is_due = |(_, len): &(PathBuf, u64)| {
        seen += len;
        let take = taken < due(seen) && taken + len <= budget;
        taken += if take { *len } else { 0 };
        take
    };
    let mut is_due = is_due;
    files.into_iter().filter(|file| is_due(file)).collect()
}

/// Lists all regular files below `dir`. Links are not followed; unreadable directories are skipped.
fn list(dir: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            list(&entry.path(), files);
        } else if metadata.is_file() {
            files.push((entry.path(), metadata.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_selected_evenly_and_within_the_budget() {
        let files: Vec<_> = (0..100).map(|i| (PathBuf::from(i.to_string()), 10)).collect();
        let taken = spread(files.clone(), 250, 1000);
        assert_eq!(taken.iter().map(|(_, len)| len).sum::<u64>(), 250);
        assert_eq!(taken.iter().filter(|file| files[50..].contains(file)).count(), 12);
        assert_eq!(spread(files, 5000, 1000).len(), 100, "all files fit");
    }
}
