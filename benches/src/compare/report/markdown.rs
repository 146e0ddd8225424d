//! The report as Markdown tables.

use super::{CellReport, Comparison, PlaceReport};
use crate::contenders::{Contender, Role};
use crate::stats::{bounds, median};
use std::fmt::Write as _;

const HEADER: &str = "\
| cell | tool | wall s (min–max) | CPU s | peak MiB | allocated MB | length MB | size / qemu-img's | faster than qemu-img | time / floor |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|";

/// Renders the whole report.
pub(crate) fn render(comparison: &Comparison) -> String {
    let mut text =
        format!("{}\n\n{} · {}\n", comparison.machine, comparison.diskimg, comparison.qemu_img);
    for place in &comparison.places {
        text.push('\n');
        table(&mut text, comparison, place);
    }
    text.push('\n');
    if let Some(peak) = comparison.own_peak {
        let _ = writeln!(text, "* Peak memory below {} MiB cannot be measured.", peak >> 20);
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "* {note}");
    }
    text
}

fn table(text: &mut String, comparison: &Comparison, place: &PlaceReport) {
    let _ = writeln!(
        text,
        "**{} ({})**: ext4 image of {} MiB with {} MiB of files; median of {} runs in alternation \
         after one warm-up; {}.\n\n{HEADER}",
        place.dir,
        place.file_system,
        comparison.size >> 20,
        comparison.files >> 20,
        comparison.runs,
        comparison.fsync.caption(),
    );
    for cell in &place.cells {
        rows(text, cell);
    }
}

fn rows(text: &mut String, cell: &CellReport) {
    if let Some(failure) = &cell.failure {
        let _ = writeln!(text, "{}", not_available(&cell.name, "", failure));
    }
    for contender in &cell.contenders {
        let row = match &contender.failure {
            Some(failure) => not_available(&cell.name, contender.tool, failure),
            None => row(cell, contender),
        };
        let _ = writeln!(text, "{row}");
    }
    if let Some(seconds) = median(cell.codecs.iter().copied()) {
        let _ = writeln!(text, "| {} | _codecs alone_ | {seconds:.3} | | | | | | | |", cell.name);
    }
}

fn not_available(cell: &str, tool: &str, failure: &str) -> String {
    let failure = failure.replace('|', "\\|").replace('\n', " ");
    format!("| {cell} | {tool} | n/a: {failure} | | | | | | | |")
}

fn row(cell: &CellReport, contender: &Contender) -> String {
    let walls = contender.walls();
    let (low, high) = bounds(&walls);
    let median_of = |values: Vec<f64>| median(values).unwrap_or(f64::NAN);
    let cpu = median_of(contender.runs.iter().map(|run| run.cpu).collect());
    let peak = contender.runs.iter().map(|run| run.peak).max().unwrap_or(0);
    let speed_up = cell.speed_up(contender).filter(|_| contender.role != Role::Reference);
    let bold = if contender.role == Role::Ours { "**" } else { "" };
    let slant = if contender.role == Role::Floor { "_" } else { "" };
    format!(
        "| {} | {slant}{}{slant} | {:.3} ({low:.3}–{high:.3}) | {cpu:.2} | {} | {} | {} | {} | {} | {} |",
        cell.name,
        contender.tool,
        median_of(walls),
        peak >> 20,
        megabytes(contender.output.map(|size| size.allocated)),
        megabytes(contender.output.map(|size| size.length)),
        or_dash(size_ratio(cell, contender), |ratio| format!("{ratio:.3}")),
        or_dash(speed_up, |ratio| format!("{bold}×{ratio:.2}{bold}")),
        or_dash(cell.above_floor(contender), |ratio| format!("{ratio:.2}")),
    )
}

/// Returns the ratio of allocated bytes to those of the reference; none for a copy of the source.
fn size_ratio(cell: &CellReport, contender: &Contender) -> Option<f64> {
    if contender.role == Role::Floor {
        return None;
    }
    let reference = cell.with(Role::Reference)?.output?.allocated;
    (reference > 0).then(|| Some(contender.output?.allocated as f64 / reference as f64))?
}

fn megabytes(bytes: Option<u64>) -> String {
    or_dash(bytes, |bytes| format!("{:.1}", bytes as f64 / 1e6))
}

fn or_dash<T>(value: Option<T>, shown: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{FileSize, Run};

    fn contender(tool: &'static str, role: Role, walls: &[f64], allocated: u64) -> Contender {
        let run = |&wall: &f64| Run { wall, cpu: 1.5 * wall, peak: 20 << 20 };
        let mut contender = Contender::new(tool, role, "raw", Vec::new());
        contender.runs = walls.iter().map(run).collect();
        contender.output = Some(FileSize { length: 3_000_000, allocated });
        contender
    }

    fn cell(contenders: Vec<Contender>, codecs: Vec<f64>) -> CellReport {
        CellReport { name: "a→b".into(), contenders, codecs, failure: None }
    }

    #[test]
    fn a_row_has_the_ratios_to_qemu_img_and_to_the_floor() {
        let ours = contender("diskimg", Role::Ours, &[1.0, 2.0, 4.0], 1_000_000);
        let theirs = contender("qemu-img", Role::Reference, &[2.0, 6.0, 8.0], 2_000_000);
        let copy = contender("cp", Role::Floor, &[0.5, 1.0, 2.0], 2_000_000);
        let cell = cell(vec![ours, theirs, copy], Vec::new());
        let mut text = String::new();
        rows(&mut text, &cell);
        let expected = "\
            | a→b | diskimg | 2.000 (1.000–4.000) | 3.00 | 20 | 1.0 | 3.0 | 0.500 | **×2.00** | 2.00 |\n\
            | a→b | qemu-img | 6.000 (2.000–8.000) | 9.00 | 20 | 2.0 | 3.0 | 1.000 | – | 4.00 |\n\
            | a→b | _cp_ | 1.000 (0.500–2.000) | 1.50 | 20 | 2.0 | 3.0 | – | ×4.00 | 1.00 |\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_row_has_as_many_columns_as_the_header() {
        let mut failed = contender("diskimg", Role::Ours, &[], 0);
        failed.failure = Some("no | such\noption".into());
        let theirs = contender("qemu-img", Role::Reference, &[2.0], 2_000_000);
        let mut cell = cell(vec![failed, theirs], vec![0.5]);
        cell.failure = Some("no input".into());
        let mut text = String::new();
        rows(&mut text, &cell);
        assert_eq!(text.lines().count(), 4);
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        for line in text.lines() {
            assert_eq!(columns(line), columns(HEADER.lines().next().unwrap_or("")), "{line}");
        }
    }
}
