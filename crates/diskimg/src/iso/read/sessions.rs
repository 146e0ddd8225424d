//! Sessions of a multisession disc.
//!
//! ```text
//!   write-once      0: session 1     end of session 1, rounded up: session 2     …
//!   overwritable    0: descriptors of the newest session     32: session 1     …
//! ```
//!
//! An image has no table of contents. On overwritable media, libburnia keeps the descriptors of the
//! first session at sector 32 + 16 and writes those of the newest session at 16. Later sessions are
//! found by their descriptors: each starts after the end of the previous one, at a sector number
//! that is a multiple of 16. An image stored as a file in an image can look like a session. The
//! root directory distinguishes the two: that of a session is within the session, and its first
//! record contains its own sector number.

use super::sectors::read;
use crate::error::Result;
use crate::iso::SECTOR;
use crate::storage::source::Source;
use serde::Serialize;

/// Number of sectors before the volume descriptors of a session (ECMA-119, 6.2.1).
const SYSTEM_AREA: u64 = 16;

/// First sector of libburnia's first session on overwritable media.
const EMULATED_START: u64 = 32;

/// Alignment of the first sector of a session.
const ALIGNMENT: u64 = 16;

/// Maximum number of aligned sectors that are examined after the end of a session: 64 MiB.
const MAX_GAP: u64 = 2048;

/// Maximum number of sessions of an image. A CD has at most 99 tracks.
const MAX_SESSIONS: usize = 256;

/// Maximum number of descriptors of a session that are searched for the primary one.
const MAX_DESCRIPTORS: u64 = 16;

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SessionInfo {
    /// First sector of the session.
    pub start_sector: u64,
    /// Sector of the session's first volume descriptor.
    pub descriptors_sector: u64,
    /// Volume space size in sectors, from the primary volume descriptor.
    pub volume_sectors: u64,
    /// Volume identifier.
    pub label: String,
    /// Sector of the root directory.
    #[serde(skip)]
    root: u64,
}

/// Finds the sessions of an image, in recorded order. Returns an empty list if there is no primary
/// volume descriptor at sector 16 or following it.
///
/// # Errors
/// Returns [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
pub(crate) fn find(source: &dyn Source) -> Result<Vec<SessionInfo>> {
    let Some(newest) = session(source, 0)? else { return Ok(Vec::new()) };
    let emulated = session(source, EMULATED_START)?;
    let first = match emulated {
        Some(first) if is_later(source, &first)? => first,
        // The first session is accepted without further checks.
        _ => newest,
    };
    let mut sessions = vec![first];
    while sessions.len() < MAX_SESSIONS
        && let Some(last) = sessions.last()
        && let Some(next) = next(source, last)?
    {
        sessions.push(next);
    }
    Ok(sessions)
}

/// Finds the session after `last`.
fn next(source: &dyn Source, last: &SessionInfo) -> Result<Option<SessionInfo>> {
    let end = last.start_sector + last.volume_sectors;
    let aligned = end.next_multiple_of(ALIGNMENT);
    let candidates = (0..MAX_GAP).map(|n| aligned + n * ALIGNMENT);
    // A session appended by concatenation may start directly at the end, without alignment.
    for start in std::iter::once(end).chain(candidates) {
        if (start + SYSTEM_AREA + 1) * SECTOR > source.len() {
            break;
        }
        if let Some(found) = session(source, start)?
            && start > last.start_sector
            && is_later(source, &found)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Reads the session that starts at sector `start` from its primary volume descriptor (ECMA-119,
/// 8.4).
fn session(source: &dyn Source, start: u64) -> Result<Option<SessionInfo>> {
    let descriptors_sector = start + SYSTEM_AREA;
    for sector in descriptors_sector..descriptors_sector + MAX_DESCRIPTORS {
        let mut head = [0; 190];
        if !read(source, &mut head, sector * SECTOR)? || &head[1..6] != b"CD001" {
            return Ok(None);
        }
        match head[0] {
            1 => {
                let le = |at: usize| {
                    head[at..at + 4].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
                };
                let label = String::from_utf8_lossy(&head[40..72]);
                return Ok(Some(SessionInfo {
                    start_sector: start,
                    descriptors_sector,
                    volume_sectors: le(80),
                    label: label.trim_end_matches([' ', '\0']).to_owned(),
                    root: le(158),
                }));
            }
            255 => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

/// Returns the start of the session whose descriptors refer to the root directory in sector `root`.
/// Unlike the descriptors at the start of an image, those of the session itself precede its root
/// directory by little more than the path tables.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
pub(crate) fn start_of_root(source: &dyn Source, root: u64) -> Result<Option<u64>> {
    /// Number of sectors before the root directory that are searched.
    const SEARCHED: u64 = 4096;
    let first = root.saturating_sub(SEARCHED).max(SYSTEM_AREA + 1);
    for sector in (first..root).rev() {
        if let Some(found) = session(source, sector - SYSTEM_AREA)?.filter(|s| s.root == root) {
            return Ok(Some(found.start_sector));
        }
    }
    Ok(None)
}

/// Returns true if `found` is a session and not the contents of a file: its root directory is
/// within it, and starts with a record of itself (ECMA-119, 6.8.2.2).
fn is_later(source: &dyn Source, found: &SessionInfo) -> Result<bool> {
    let inside = found.start_sector..found.start_sector + found.volume_sectors;
    if !inside.contains(&found.root) {
        return Ok(false);
    }
    let mut record = [0; 34];
    let whole = read(source, &mut record, found.root * SECTOR)?;
    let itself = record[2..6].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    Ok(whole && record[0] >= 34 && record[32..34] == [1, 0] && itself == found.root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    /// Returns an image of `sectors` sectors with a session for each `(start, sectors, root)`.
    fn image(sectors: u64, sessions: &[(u64, u32, u32)]) -> MemorySource {
        let mut bytes = vec![0; (sectors * SECTOR) as usize];
        for &(start, volume, root) in sessions {
            let pvd = &mut bytes[((start + SYSTEM_AREA) * SECTOR) as usize..][..2048];
            pvd[..6].copy_from_slice(b"\x01CD001");
            pvd[40..72].fill(b' ');
            pvd[40..44].copy_from_slice(format!("S{start:03}").as_bytes());
            pvd[80..84].copy_from_slice(&volume.to_le_bytes());
            pvd[158..162].copy_from_slice(&root.to_le_bytes());
            let record = &mut bytes[(u64::from(root) * SECTOR) as usize..][..34];
            record[0] = 34;
            record[2..6].copy_from_slice(&root.to_le_bytes());
            record[32] = 1;
        }
        MemorySource::new(bytes)
    }

    fn found(source: &MemorySource) -> Vec<(u64, String)> {
        let sessions = find(source).expect("in memory");
        sessions.into_iter().map(|s| (s.descriptors_sector, s.label)).collect()
    }

    fn sessions(starts: &[u64]) -> Vec<(u64, String)> {
        starts.iter().map(|s| (s + 16, format!("S{s:03}"))).collect()
    }

    #[test]
    fn consecutive_sessions_are_found_aligned_or_not() {
        assert_eq!(found(&image(60, &[(0, 50, 20)])), sessions(&[0]));
        let source = image(400, &[(0, 50, 20), (64, 50, 84), (160, 101, 180), (261, 50, 280)]);
        assert_eq!(found(&source), sessions(&[0, 64, 160, 261]));
    }

    #[test]
    fn the_first_session_of_overwritable_media_is_at_sector_32() {
        let source = image(300, &[(0, 250, 180), (32, 50, 50), (160, 90, 180)]);
        assert_eq!(found(&source), sessions(&[32, 160]));
    }

    #[test]
    fn an_image_appended_to_the_volume_is_not_a_session() {
        // The sector of its root is relative to its own start.
        assert_eq!(found(&image(300, &[(0, 50, 20), (64, 50, 25)])), sessions(&[0]));
        // The sector of its root is within it, but the record there has another sector number.
        let source = image(300, &[(0, 50, 20), (64, 50, 84), (96, 50, 130)]);
        let mut bytes = source.as_slice().expect("memory").to_vec();
        bytes[84 * 2048 + 2] = 20;
        assert_eq!(found(&MemorySource::new(bytes)), sessions(&[0, 96]));
    }

    #[test]
    fn a_volume_size_of_zero_or_of_the_maximum_ends_the_search() {
        assert_eq!(found(&image(300, &[(0, 0, 20)])), sessions(&[0]));
        assert_eq!(found(&image(300, &[(0, u32::MAX, 20), (64, 9, 84)])), sessions(&[0]));
        assert_eq!(found(&image(20, &[])), []);
        assert_eq!(found(&MemorySource::new(*b"short")), []);
    }
}
