//! The conversions that are measured.

use crate::floor::Floor;
use crate::inputs::Form;

/// A conversion, measured with every tool that supports it.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// Name in tables and for `--cells`.
    pub(crate) name: &'static str,
    /// The image to convert.
    pub(crate) source: Form,
    /// The output format.
    pub(crate) format: &'static str,
    /// Options of diskimg, besides formats and files.
    pub(crate) ours: &'static [&'static str],
    /// Options of qemu-img.
    pub(crate) theirs: &'static [&'static str],
    /// A lower bound of the time.
    pub(crate) floor: Floor,
    /// For cells on file systems with reflinks: how sharing is requested.
    pub(crate) sharing: Option<Sharing>,
}

/// How sharing of blocks with the source is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// By default settings.
    Default,
    /// With `-C`.
    Offload,
}

const ZLIB: &[&str] = &["-c"];
const ZSTD: &[&str] = &["-c", "-o", "compression_type=zstd"];
const STREAM: &[&str] = &["-o", "subformat=streamOptimized"];
/// Without it, qemu-img changes the size of the disk.
const FORCE_SIZE: &[&str] = &["-o", "force_size=on"];
// qemu-img has no such option and uses zlib's default level.
const ZLIB_LEVEL_1: &[&str] = &["-c", "-o", "compression_level=1"];

impl Cell {
    const fn new(
        name: &'static str,
        source: Form,
        format: &'static str,
        options: &'static [&'static str],
        floor: Floor,
    ) -> Self {
        Self { name, source, format, ours: options, theirs: options, floor, sharing: None }
    }

    /// A conversion without compression.
    const fn stored(name: &'static str, source: Form, format: &'static str) -> Self {
        Self::new(name, source, format, &[], Floor::Copy)
    }

    /// The same on a file system with reflinks, where a copy is no lower bound.
    const fn shared(
        name: &'static str,
        source: Form,
        format: &'static str,
        sharing: Sharing,
    ) -> Self {
        let cell = Self::new(name, source, format, &[], Floor::Unknown);
        Self { sharing: Some(sharing), ..cell }
    }
}

/// Returns all cells.
fn all() -> Vec<Cell> {
    use Form::{
        Cloop, Dmg, DmgBzip2, DmgLzma, Ewf, Fragmented, Huge, HugeQcow2, Parallels, Qcow, Qcow2,
        Qcow2Gz, Qcow2Zlib, Qcow2Zstd, Qed, Raw, Stream, Vdi, Vhd, Vhdx, Vmdk,
    };
    use Sharing::{Default, Offload};
    let level_1 = Cell::new("raw→qcow2 -c zlib, level 1", Raw, "qcow2", ZLIB, Floor::Unknown);
    vec![
        Cell::stored("raw→raw", Raw, "raw"),
        Cell::stored("raw→qcow2", Raw, "qcow2"),
        Cell::stored("raw→vmdk", Raw, "vmdk"),
        Cell::stored("qcow2→raw", Qcow2, "raw"),
        Cell::stored("qcow2→qcow2", Qcow2, "qcow2"),
        Cell::stored("qcow2→vmdk", Qcow2, "vmdk"),
        Cell::stored("vmdk→raw", Vmdk, "raw"),
        Cell::stored("vmdk→qcow2", Vmdk, "qcow2"),
        Cell::stored("vmdk→vmdk", Vmdk, "vmdk"),
        Cell::new("raw→vpc", Raw, "vpc", FORCE_SIZE, Floor::Copy),
        Cell::stored("vpc→raw", Vhd, "raw"),
        Cell::stored("vpc→qcow2", Vhd, "qcow2"),
        Cell::stored("raw→vhdx", Raw, "vhdx"),
        Cell::stored("qcow2→vhdx", Qcow2, "vhdx"),
        Cell::stored("vhdx→raw", Vhdx, "raw"),
        Cell::stored("vhdx→qcow2", Vhdx, "qcow2"),
        Cell::stored("16 TiB raw→vhdx", Huge, "vhdx"),
        Cell::stored("raw→vdi", Raw, "vdi"),
        Cell::stored("vdi→raw", Vdi, "raw"),
        Cell::stored("vdi→qcow2", Vdi, "qcow2"),
        Cell::stored("raw→qed", Raw, "qed"),
        Cell::stored("qed→raw", Qed, "raw"),
        Cell::stored("raw→qcow", Raw, "qcow"),
        Cell::stored("qcow→raw", Qcow, "raw"),
        Cell::stored("raw→parallels", Raw, "parallels"),
        Cell::stored("parallels→raw", Parallels, "raw"),
        Cell::stored("parallels→qcow2", Parallels, "qcow2"),
        Cell::new("qcow2.gz→raw", Qcow2Gz, "raw", &[], Floor::Unknown),
        Cell::new("E01→raw", Ewf, "raw", &[], Floor::DECODE),
        Cell::new("cloop→raw", Cloop, "raw", &[], Floor::DECODE),
        Cell::new("dmg→raw", Dmg, "raw", &[], Floor::DECODE),
        Cell::new("dmg→qcow2", Dmg, "qcow2", &[], Floor::DECODE),
        Cell::new("dmg bzip2→raw", DmgBzip2, "raw", &[], Floor::Unknown),
        Cell::new("dmg lzma→raw", DmgLzma, "raw", &[], Floor::Unknown),
        Cell::new("raw→qcow2 -c zlib", Raw, "qcow2", ZLIB, Floor::ENCODE_DEFLATE),
        Cell { ours: ZLIB_LEVEL_1, ..level_1 },
        Cell::new("raw→qcow2 -c zstd", Raw, "qcow2", ZSTD, Floor::ENCODE_ZSTD),
        Cell::new("qcow2 zlib→raw", Qcow2Zlib, "raw", &[], Floor::DECODE),
        Cell::new("qcow2 zstd→raw", Qcow2Zstd, "raw", &[], Floor::DECODE),
        Cell::new("qcow2 zlib→qcow2 -c zlib", Qcow2Zlib, "qcow2", ZLIB, Floor::Copy),
        Cell::new("qcow2 zstd→qcow2 -c zstd", Qcow2Zstd, "qcow2", ZSTD, Floor::Copy),
        Cell::new("raw→stream", Raw, "vmdk", STREAM, Floor::ENCODE_ZLIB),
        Cell::new("stream→stream", Stream, "vmdk", STREAM, Floor::Copy),
        Cell::new("stream→raw", Stream, "raw", &[], Floor::DECODE),
        Cell::new("stream→qcow2", Stream, "qcow2", &[], Floor::DECODE),
        Cell::stored("16 TiB raw→raw", Huge, "raw"),
        Cell::stored("16 TiB raw→qcow2", Huge, "qcow2"),
        Cell::stored("16 TiB qcow2→raw", HugeQcow2, "raw"),
        Cell::stored("fragmented qcow2→raw", Fragmented, "raw"),
        Cell::stored("fragmented qcow2→qcow2", Fragmented, "qcow2"),
        Cell::shared("reflink raw→raw", Raw, "raw", Default),
        Cell::shared("reflink raw→raw -C", Raw, "raw", Offload),
        Cell::shared("reflink raw→qcow2", Raw, "qcow2", Default),
        Cell::shared("reflink raw→qcow2 -C", Raw, "qcow2", Offload),
        Cell::shared("reflink qcow2→raw", Qcow2, "raw", Default),
        Cell::shared("reflink qcow2→raw -C", Qcow2, "raw", Offload),
        Cell::shared("reflink qcow2→qcow2", Qcow2, "qcow2", Default),
        Cell::shared("reflink qcow2→qcow2 -C", Qcow2, "qcow2", Offload),
    ]
}

/// Returns the cells that match one of `patterns`, or all if there are none.
pub(crate) fn select(patterns: &[String]) -> Vec<Cell> {
    let mut cells = all();
    cells.retain(|cell| patterns.is_empty() || patterns.iter().any(|p| matches(p, cell.name)));
    cells
}

/// Returns whether the name contains the pattern or, if the pattern contains `*`, matches it as a
/// whole. `->` stands for `→`.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.replace("->", "→");
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else { return name.contains(first) };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_a_part_or_with_stars_the_whole_name() {
        for (pattern, name, expected) in [
            ("raw->raw", "16 TiB raw→raw", true),
            ("raw->raw*", "16 TiB raw→raw", false),
            ("raw->*", "raw→qcow2 -c zlib", true),
            ("*zlib", "raw→qcow2 -c zlib, level 1", false),
            ("raw*2*zlib*", "raw→qcow2 -c zlib, level 1", true),
            ("vmdk", "raw→qcow2", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} of {name}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().iter().map(|cell| cell.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
