//! Text output in the format of qemu-img.

use diskimg::check::CheckReport;
use diskimg::info::{Child, Info, Snapshot, Value};
use diskimg::inspection::{PartitionTable, Role, Verdict};
use diskimg::preflight::Preflight;
use diskimg::{Finding, Inspection, Measure, printable};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::{Display, Write};

/// Formats the output of `info` for one image.
pub(crate) fn info(info: &Info) -> String {
    let mut text = Text::default();
    text.line("image", &info.filename);
    text.line("file format", &info.format);
    text.line("virtual size", &size_and_bytes(info.virtual_size));
    text.line("disk size", &disk_size(info.actual_size));
    if info.encrypted {
        text.line("encrypted", "yes");
    }
    if info.compressed {
        text.line("compressed", "yes");
    }
    if let Some(cluster_size) = info.cluster_size {
        text.line("cluster_size", &cluster_size.to_string());
    }
    if info.dirty_flag {
        text.line("cleanly shut down", "no");
    }
    backing(&mut text, info);
    if !info.snapshots.is_empty() {
        text.raw(&snapshot_list(&info.snapshots));
    }
    let entries = info.format_specific.as_ref().map(|specific| specific.data.as_slice());
    if let Some(entries) = entries.filter(|entries| !entries.is_empty()) {
        text.title("Format specific information");
        text.indented(|text| map(text, entries));
    }
    children(&mut text, "", &info.children);
    for note in &info.notes {
        text.line("note", note);
    }
    text.0
}

/// Formats the output of `measure`.
pub(crate) fn measure(measure: &Measure) -> String {
    let mut text = Text::default();
    text.line("required size", &measure.required.to_string());
    text.line("fully allocated size", &measure.fully_allocated.to_string());
    if let Some(bitmaps) = measure.bitmaps {
        text.line("bitmaps size", &bitmaps.to_string());
    }
    text.0
}

/// Formats the output of `inspect`.
pub(crate) fn inspection(found: &Inspection) -> String {
    let mut text = Text::default();
    text.line("image", &found.filename);
    text.line("verdict", if found.verdict == Verdict::Safe { "safe" } else { "unsafe" });
    text.line("file format", found.format);
    if let Some(claimed) = &found.claimed_format {
        text.line("claimed format", claimed);
    }
    if !found.other_formats.is_empty() {
        text.line("other formats", &found.other_formats.join(", "));
    }
    match found.partition_table {
        None => {}
        Some(PartitionTable::Gpt) => text.line("partition table", "gpt"),
        Some(_) => text.line("partition table", "mbr"),
    }
    match found.virtual_size {
        Some(bytes) => text.line("virtual size", &size_and_bytes(bytes)),
        None => text.line("virtual size", "unknown"),
    }
    text.line("file size", &size_and_bytes(found.file_size));
    if found.encrypted {
        text.line("encrypted", "yes");
    }
    for reference in &found.references {
        let role = match reference.role {
            Role::BackingFile => "names the backing file",
            Role::DataFile => "names the data file",
            Role::Extent => "names the extent",
            Role::Parent => "names the parent",
            _ => "names the file",
        };
        text.line(role, &reference.name);
    }
    findings(&mut text, &found.findings);
    text.0
}

/// The result of a preflight check.
pub(crate) fn preflight(found: &Preflight) -> String {
    let mut text = Text::default();
    text.line("image", &found.filename);
    let title = found.consumer.title();
    text.line(&format!("accepted by {title}"), if found.accepted { "yes" } else { "no" });
    text.line("file format", found.format);
    text.line("virtual size", &size_and_bytes(found.virtual_size));
    let bios = Some("BIOS".to_owned()).filter(|_| found.boot.bios);
    let uefi = found.boot.uefi.iter().map(|architecture| format!("UEFI ({architecture})"));
    let boot: Vec<_> = bios.into_iter().chain(uefi).collect();
    if !boot.is_empty() {
        text.line("boot code", &boot.join(", "));
    }
    findings(&mut text, &found.findings);
    text.0
}

fn findings<C: Display>(text: &mut Text, findings: &[Finding<C>]) {
    for finding in findings {
        let mut line = format!("{}: {}", finding.code, finding.message);
        if let Some(member) = &finding.path {
            let _ = write!(line, " (in {member})");
        }
        if let Some(offset) = finding.offset {
            let _ = write!(line, " (at offset {offset:#x})");
        }
        text.line(&finding.severity.to_string(), &line);
    }
}

fn backing(text: &mut Text, info: &Info) {
    let Some(name) = &info.backing_filename else { return };
    match &info.full_backing_filename {
        None => text.line("backing file", &format!("{name} (cannot determine actual path)")),
        Some(full) if full != name => {
            text.line("backing file", &format!("{name} (actual path: {full})"));
        }
        Some(_) => text.line("backing file", name),
    }
    if let Some(format) = &info.backing_filename_format {
        text.line("backing file format", format);
    }
}

fn children(text: &mut Text, parent: &str, children: &[Child]) {
    for Child { name, info, .. } in children {
        let path = format!("{parent}/{name}");
        text.title(&format!("Child node '{path}'"));
        text.indented(|text| {
            text.line("filename", &info.filename);
            text.line("protocol type", info.format);
            text.line("file length", &size_and_bytes(info.virtual_size));
            text.line("disk size", &disk_size(info.actual_size));
            self::children(text, &path, &info.children);
        });
    }
}

fn map(text: &mut Text, entries: &[(&'static str, Value)]) {
    for (key, value) in entries {
        entry(text, &key.replace('-', " "), value);
    }
}

fn entry(text: &mut Text, key: &str, value: &Value) {
    match value {
        Value::Bool(yes) => text.line(key, if *yes { "true" } else { "false" }),
        Value::Number(n) => text.line(key, &n.to_string()),
        Value::Text(string) => text.line(key, string),
        Value::List(items) => {
            text.title(key);
            text.indented(|text| {
                for (i, item) in items.iter().enumerate() {
                    entry(text, &format!("[{i}]"), item);
                }
            });
        }
        Value::Map(entries) => {
            text.title(key);
            text.indented(|text| map(text, entries));
        }
    }
}

/// Formats the output of `snapshot -l` for an image with snapshots.
pub(crate) fn snapshot_list(snapshots: &[Snapshot]) -> String {
    let mut table = "Snapshot list:\n".to_owned();
    let mut row = |cells: [&str; 6]| {
        let [id, tag, size, date, clock, icount] = cells.map(printable);
        let _ = writeln!(table, "{id:<7} {tag:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}");
    };
    row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"]);
    for s in snapshots {
        let seconds = s.vm_clock_sec;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            s.vm_clock_nsec / 1_000_000
        );
        let icount = s.icount.map_or_else(|| "--".to_owned(), |n| n.to_string());
        let (size, date) = (size(s.vm_state_size), local_date(s.date_sec));
        row([&s.id, &s.name, &size, &date, &clock, &icount]);
    }
    table
}

/// Formats a time in the local time zone.
fn local_date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    match time {
        Some(time) => {
            TimeZone::system().to_datetime(time).strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
        None => format!("@{seconds}"),
    }
}

/// Formats what a repair has done, before the result of the second check.
pub(crate) fn repaired(report: &CheckReport) -> String {
    match (report.leaks_fixed, report.corruptions_fixed) {
        (0, 0) => String::new(),
        (leaks, corruptions) => format!(
            "The following inconsistencies were found and repaired:\n\n    {leaks} leaked \
             clusters\n    {corruptions} corruptions\n\nDouble checking the fixed image now...\n"
        ),
    }
}

/// Formats the output of `check`.
pub(crate) fn check(report: &CheckReport) -> String {
    let mut text = String::new();
    let CheckReport { corruptions, leaks, check_errors, warnings, .. } = *report;
    if corruptions + leaks + check_errors + warnings == 0 {
        text.push_str("No errors were found on the image.\n");
    }
    if corruptions > 0 {
        let _ = write!(
            text,
            "\n{corruptions} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n"
        );
    }
    if leaks > 0 {
        let _ = write!(
            text,
            "\n{leaks} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n"
        );
    }
    if warnings > 0 {
        let _ = write!(
            text,
            "\n{warnings} warnings were found on the image.\n\
             Some programs may not read it correctly.\n"
        );
    }
    if check_errors > 0 {
        let _ = write!(text, "\n{check_errors} internal errors have occurred during the check.\n");
    }
    let (total, allocated) = (report.total_clusters, report.allocated_clusters);
    if total > 0 && allocated > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        let _ = writeln!(
            text,
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            percent(allocated, total),
            percent(report.fragmented_clusters, allocated),
            percent(report.compressed_clusters, allocated),
        );
    }
    if let Some(end) = report.image_end_offset.filter(|&end| end > 0) {
        let _ = writeln!(text, "Image end offset: {end}");
    }
    match report.recorded_digests {
        Some(0) => text.push_str("The image records no digests of its contents.\n"),
        Some(recorded) => {
            let verified = report.verified_digests;
            let _ = writeln!(text, "{verified} of {recorded} digests of the contents match.");
        }
        None => {}
    }
    text
}

fn disk_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unavailable".to_owned(), size)
}

pub(crate) fn size_and_bytes(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", size(bytes))
}

/// Formats a number of bytes with three significant digits, like QEMU's `size_to_str`: the next
/// unit is used once the integer part reaches 1000.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (1..UNITS.len()).rev().find(|i| bytes >= 1000 << (10 * (i - 1))).unwrap_or(0);
    format!("{} {}", three_digits(bytes, 10 * unit as u32), UNITS[unit])
}

/// Formats `bytes / 2^shift`, which is at most 1000, like `%0.3g` of printf(3): three significant
/// digits, ties to even, no trailing zeros.
fn three_digits(bytes: u64, shift: u32) -> String {
    let whole = bytes >> shift;
    // The choice of the unit makes this at least 0.97 and less than 1000.
    let decimals = match whole {
        _ if bytes == 0 => 0,
        0 => 3,
        1..=9 => 2,
        10..=99 => 1,
        _ => 0,
    };
    let scaled = u128::from(bytes) * 10u128.pow(decimals);
    let (floor, rest) = (scaled >> shift, scaled & ((1 << shift) - 1));
    let half = (1u128 << shift) >> 1;
    let up = shift > 0 && (rest > half || rest == half && floor % 2 == 1);
    let rounded = floor + u128::from(up);
    if decimals == 0 && rounded == 1000 {
        return "1e+03".to_owned(); // as printf(3) and qemu-img
    }
    let point = 10u128.pow(decimals);
    let text =
        format!("{}.{:0width$}", rounded / point, rounded % point, width = decimals as usize);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Lines of text, and the current indentation level.
#[derive(Default)]
struct Text(String, usize);

impl Text {
    fn line(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{:1$}{key}: {2}", "", self.1 * 4, printable(value));
    }

    fn title(&mut self, title: &str) {
        let _ = writeln!(self.0, "{:1$}{title}:", "", self.1 * 4);
    }

    fn raw(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn indented(&mut self, fill: impl FnOnce(&mut Self)) {
        self.1 += 1;
        fill(self);
        self.1 -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_significant_digits_and_the_unit_that_qemu_uses() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1023, "0.999 KiB"),
            (1024, "1 KiB"),
            (2560, "2.5 KiB"),
            (216 << 10, "216 KiB"),
            (1023 << 10, "0.999 MiB"),
            (999 << 10 | 512, "1e+03 KiB"),
            (998 << 10 | 512, "998 KiB"),
            (1 << 20, "1 MiB"),
            (1_079_296, "1.03 MiB"),
            (10_490_447_462, "9.77 GiB"),
            (10 << 30, "10 GiB"),
            (1152, "1.12 KiB"),
            (3200, "3.12 KiB"),
            (i64::MAX as u64, "8 EiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_snapshot_is_a_row_below_the_heading() {
        let mut snapshot = Snapshot::default();
        snapshot.id = "1".into();
        snapshot.name = "s1".into();
        snapshot.vm_clock_sec = 3661;
        snapshot.vm_clock_nsec = 5_000_000;
        let table = snapshot_list(&[snapshot]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "Snapshot list:");
        assert_eq!(
            lines[1],
            "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT"
        );
        assert!(lines[2].starts_with("1       s1                    0 B 19"), "{}", lines[2]);
        assert!(lines[2].ends_with("  0001:01:01.005         --"), "{}", lines[2]);
    }

    #[test]
    fn a_check_report_summarizes_each_kind_of_error() {
        let mut report = CheckReport::default();
        report.corruptions = 2;
        report.leaks = 1;
        report.check_errors = 1;
        report.total_clusters = 16;
        report.allocated_clusters = 1;
        report.image_end_offset = Some(655_360);
        assert_eq!(
            check(&report),
            "\n2 errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n\
             \n1 leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n\
             \n1 internal errors have occurred during the check.\n\
             1/16 = 6.25% allocated, 0.00% fragmented, 0.00% compressed clusters\n\
             Image end offset: 655360\n"
        );
    }
}
