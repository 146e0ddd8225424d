//! A table for people.

use super::{CellReport, Comparison, PlaceReport};
use crate::contenders::{Contender, Role};
use crate::stats::{bounds, median};
use std::fmt::Write as _;

const HEADER: &str = "\
| cell | tool | wall s (min–max) | CPU s | peak MiB | allocated MB | length MB | size / qemu-img's | faster than qemu-img | time / floor |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|";

/// The whole comparison.
pub(crate) fn render(comparison: &Comparison) -> String {
    let mut text =
        format!("{}\n\n{} · {}\n", comparison.machine, comparison.diskimg, comparison.qemu_img);
    for place in &comparison.places {
        text.push('\n');
        table(&mut text, comparison, place);
    }
    text.push('\n');
    if let Some(peak) = comparison.own_peak {
        let _ = writeln!(text, "* Peaks below {} MiB cannot be told.", peak >> 20);
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
    if let Some(seconds) = cell.codecs {
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
    let middle = |values: Vec<f64>| median(values).unwrap_or(f64::NAN);
    let cpu = middle(contender.runs.iter().map(|run| run.cpu).collect());
    let peak = contender.runs.iter().map(|run| run.peak).max().unwrap_or(0);
    let speed_up = cell.speed_up(contender).filter(|_| contender.role != Role::Reference);
    let bold = if contender.role == Role::Ours { "**" } else { "" };
    let name = if contender.role == Role::Floor { "_cp of the source_" } else { contender.tool };
    format!(
        "| {} | {name} | {:.3} ({low:.3}–{high:.3}) | {cpu:.2} | {} | {} | {} | {} | {} | {} |",
        cell.name,
        middle(walls),
        peak >> 20,
        megabytes(contender.output.map(|size| size.allocated)),
        megabytes(contender.output.map(|size| size.length)),
        or_dash(size_ratio(cell, contender), |ratio| format!("{ratio:.3}")),
        or_dash(speed_up, |ratio| format!("{bold}×{ratio:.2}{bold}")),
        or_dash(cell.above_floor(contender), |ratio| format!("{ratio:.2}")),
    )
}

/// Of what is allocated: a length with holes is no size. A copy of the source is another thing.
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
