//! The tables of the page.

use super::text::{bytes, count, escape, percent};
use crate::report::check::CheckReport;
use crate::report::picture::{Fragmentation, LayerPicture, Picture, State, Totals};
use std::fmt::Write;

/// What is shown for an unknown value.
const UNKNOWN: &str = "–";

/// Returns a cell with a size, whose exact value is in an attribute and in its tooltip.
fn size(n: u64) -> String {
    let class = if n == 0 { "n z" } else { "n" };
    format!("<td class=\"{class}\" data-v=\"{n}\" title=\"{n} bytes ({n:#x})\">{}</td>", bytes(n))
}

/// Returns a cell with a size that may be unknown.
fn known_size(n: Option<u64>) -> String {
    n.map_or_else(|| format!("<td class=\"n\">{UNKNOWN}</td>"), size)
}

/// Returns a cell with a count.
fn number(n: u64) -> String {
    format!("<td class=\"n\" data-v=\"{n}\">{}</td>", count(n))
}

/// Returns a cell with text.
fn words(text: &str) -> String {
    format!("<td>{}</td>", escape(text))
}

/// Returns a table. Columns that begin with `#` are numbers.
fn table(id: &str, caption: &str, head: &[&str], rows: &str) -> String {
    let mut cells = String::new();
    for column in head {
        let _ = match column.strip_prefix('#') {
            Some(column) => write!(cells, "<th class=\"n\" scope=\"col\">{column}</th>"),
            None => write!(cells, "<th scope=\"col\">{column}</th>"),
        };
    }
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-c\">\
         <table id=\"{id}\"><caption id=\"{id}-c\">{caption}</caption>\
         <thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// Returns the tags below the title.
pub(super) fn tags(picture: &Picture) -> String {
    let mut tags = vec![picture.format.clone()];
    let cluster = picture.layers.first().map_or(1, |layer| layer.cluster_size);
    if cluster > 1 {
        tags.push(format!("clusters of {}", bytes(cluster)));
    }
    match picture.layers.len() {
        0 | 1 => tags.push("no backing file".into()),
        n => tags.push(format!("chain of {n} images")),
    }
    match &picture.partition_table {
        Some(table) => tags.push(table.kind.to_owned()),
        None => tags.push("no partition table".into()),
    }
    tags.iter().map(|tag| format!("<li>{}</li>", escape(tag))).collect()
}

/// Returns the most important figures.
pub(super) fn tiles(picture: &Picture) -> String {
    let totals = &picture.totals;
    let empty = totals.zero.saturating_add(totals.unallocated);
    let on_host = picture.actual_size().map_or_else(|| UNKNOWN.to_owned(), bytes);
    let (host_note, runs) = match picture.layers.len() {
        0 | 1 => ("allocated for the file".to_owned(), &picture.fragmentation),
        n => (format!("allocated for {n} images"), &picture.fragmentation),
    };
    let run_note = match runs.runs {
        0 => "nothing is stored".to_owned(),
        _ => format!("of {} on average", bytes(runs.mean_run())),
    };
    let tiles = [
        (
            "Virtual size",
            bytes(picture.virtual_size),
            format!("{} bytes", count(picture.virtual_size)),
        ),
        (
            "Stored",
            bytes(totals.stored()),
            format!("{} of the disk", percent(totals.stored(), picture.virtual_size)),
        ),
        ("On the host", on_host, host_note),
        (
            "Holes and zeros",
            bytes(empty),
            format!("{} of the disk", percent(empty, picture.virtual_size)),
        ),
        ("Runs", count(runs.runs), run_note),
    ];
    tiles
        .iter()
        .map(|(name, value, note)| {
            format!("<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>")
        })
        .collect()
}

/// Returns the table of the layers.
pub(super) fn layers(picture: &Picture) -> String {
    let mut rows = String::new();
    for (depth, layer) in picture.layers.iter().enumerate() {
        let LayerPicture { visible, fragmentation, .. } = layer;
        let n = depth.min(6);
        let length = layer.files.iter().map(|file| file.length).fold(0, u64::saturating_add);
        let cluster = (layer.cluster_size > 1).then_some(layer.cluster_size);
        let _ = write!(
            rows,
            "<tr><th scope=\"row\" class=\"n\"><i class=\"k l{n}\"></i>{depth}</th>\
             <td class=\"file\">{}</td>{}{}{}{}{}{}{}{}{}{}</tr>",
            escape(&layer.filename),
            words(&layer.format),
            size(layer.virtual_size),
            known_size(cluster),
            size(length),
            known_size(layer.actual_size),
            size(visible.data),
            size(visible.compressed),
            size(visible.zero),
            known_size(layer.hidden()),
            number(fragmentation.runs),
        );
    }
    let head = [
        "#Layer",
        "File",
        "Format",
        "#Virtual size",
        "#Cluster",
        "#File size",
        "#On the host",
        "#Data",
        "#Compressed",
        "#Zero",
        "#Hidden",
        "#Runs",
    ];
    let caption = "Layers of the chain. Data, compressed and zero: what the disk shows of each. \
                   Hidden: stored, but replaced by layers above";
    table("layers", caption, &head, &rows)
}

/// Returns the table of the states.
pub(super) fn states(picture: &Picture) -> String {
    let mut rows = String::new();
    for &state in State::ALL {
        let n = picture.totals.get(state);
        let name = state.name();
        let _ = write!(
            rows,
            "<tr><th scope=\"row\"><i class=\"k {name}\"></i>{name}</th>{}<td class=\"n\">{}</td>\
             <td>{}</td></tr>",
            size(n),
            percent(n, picture.virtual_size),
            meaning(state)
        );
    }
    table("states", "Guest bytes by state", &["State", "#Bytes", "#Share", "Meaning"], &rows)
}

fn meaning(state: State) -> &'static str {
    match state {
        State::Data => "stored as it is",
        State::Compressed => "stored compressed; counted as the guest sees it",
        State::Zero => "recorded as zeros, or a hole of the file",
        State::Unallocated => "in no layer; reads as zeros",
    }
}

/// Returns the table of the fragmentation, and the chart of run lengths.
pub(super) fn fragmentation(picture: &Picture) -> String {
    let found = &picture.fragmentation;
    let sequential = found.sequential();
    let sequential = sequential.map_or_else(|| UNKNOWN.to_owned(), |n| percent(n, 10_000));
    let mut rows = String::new();
    for (name, cell, meaning) in [
        ("Runs", number(found.runs), "stretches that are read without jumping within the files"),
        ("Mean run", size(found.mean_run()), "stored bytes per run"),
        ("Backward jumps", number(found.backward), "runs that begin before the previous one's end"),
        ("Stored", size(found.stored), "bytes in the files, compressed data as stored"),
    ] {
        let _ = write!(rows, "<tr><th scope=\"row\">{name}</th>{cell}<td>{meaning}</td></tr>");
    }
    let _ = write!(
        rows,
        "<tr><th scope=\"row\">Sequential</th><td class=\"n\">{sequential}</td>\
         <td>units that follow the previous one in the file</td></tr>"
    );
    let caption = "Fragmentation: how the stored data is scattered if the disk is read from start \
                   to end";
    table("fragmentation", caption, &["Measure", "#Value", "Meaning"], &rows) + &lengths(found)
}

/// Returns the table of run lengths, with bars.
fn lengths(found: &Fragmentation) -> String {
    let most = found.lengths.iter().map(|class| class.bytes).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    // Classes of a factor of 8: fewer rows.
    const CLASS: usize = 3;
    let mut rows = String::new();
    let first = found.lengths.iter().position(|class| class.runs > 0).unwrap_or(0) / CLASS;
    let classes: Vec<(u64, u64)> = found
        .lengths
        .chunks(CLASS)
        .map(|group| {
            group.iter().fold((0, 0), |(runs, bytes): (u64, u64), class| {
                (runs + class.runs, bytes.saturating_add(class.bytes))
            })
        })
        .collect();
    let most = classes.iter().map(|class| class.1).max().unwrap_or(1).max(1);
    for (n, &(runs, stored)) in classes.iter().enumerate().skip(first) {
        let from = 1u64.checked_shl(u32::try_from(n * CLASS).unwrap_or(63)).unwrap_or(1 << 63);
        let width = stored as f64 * 100.0 / most as f64;
        let _ = write!(
            rows,
            "<tr><th scope=\"row\" class=\"n\">{} –</th>{}{}<td class=\"bar\">\
             <svg width=\"100%\" height=\"10\" aria-hidden=\"true\">\
             <rect width=\"{width:.1}%\" height=\"10\" rx=\"2\"/></svg></td></tr>",
            bytes(from),
            number(runs),
            size(stored),
        );
    }
    let head = ["#Length of run", "#Runs", "#Stored", "Share of what is stored"];
    table("lengths", "Runs by length", &head, &rows)
}

/// Returns the table of the partitions.
pub(super) fn partitions(picture: &Picture) -> String {
    let Some(found) = &picture.partition_table else {
        return "<p>The disk has no partition table.</p>".into();
    };
    let mut rows = String::new();
    for partition in &found.partitions {
        let Totals { data, compressed, zero, unallocated } = partition.totals;
        let _ = write!(
            rows,
            "<tr data-start=\"{0}\" data-length=\"{1}\"><th scope=\"row\" class=\"n\">{2}</th>{3}{4}\
             <td class=\"n\"><code>{0:#x}</code></td>{5}{6}{7}{8}{9}<td class=\"n\">{10}</td></tr>",
            partition.start,
            partition.length,
            partition.number,
            words(&partition.kind),
            words(&partition.name),
            size(partition.length),
            size(data),
            size(compressed),
            size(zero),
            size(unallocated),
            percent(data.saturating_add(compressed), partition.length),
        );
    }
    let head = [
        "#No.",
        "Type",
        "Name",
        "#Start",
        "#Size",
        "#Data",
        "#Compressed",
        "#Zero",
        "#Unallocated",
        "#Stored",
    ];
    let caption = format!("Partitions ({})", found.kind);
    let mut out = table("partitions", &caption, &head, &rows);
    if found.omitted > 0 {
        let _ = write!(
            out,
            "<p>{} more entries are not listed: they are empty, beyond the end of the disk, or too \
             many.</p>",
            found.omitted
        );
    }
    out
}

/// Returns the findings of the check, and the warnings.
pub(super) fn findings(picture: &Picture) -> String {
    let mut rows = String::new();
    let check = picture.check.as_ref();
    for finding in check.iter().flat_map(|check| &check.findings) {
        let severity = finding.severity.name();
        let at = finding.offset.map_or_else(|| UNKNOWN.to_owned(), |at| format!("{at:#x}"));
        let _ = write!(
            rows,
            "<tr><th scope=\"row\"><span class=\"s {severity}\">{severity}</span></th>{}\
             <td class=\"n\"><code>{at}</code></td></tr>",
            words(&finding.message)
        );
    }
    for warning in &picture.warnings {
        let _ = write!(
            rows,
            "<tr><th scope=\"row\"><span class=\"s warning\">warning</span></th>{}\
             <td class=\"n\">{UNKNOWN}</td></tr>",
            words(warning)
        );
    }
    let mut out = format!("<p>{}</p>", summary(check.map(|check| &check.report)));
    if !rows.is_empty() {
        out += &table("findings", "Findings", &["Severity", "Finding", "#Host offset"], &rows);
    }
    if let Some(check) = check {
        let report = &check.report;
        let counted = [report.corruptions, report.leaks, report.check_errors, report.warnings];
        let all = counted.iter().fold(0, |sum: u64, &n| sum.saturating_add(n));
        let listed = check.findings.len() as u64;
        if all > listed {
            let _ = write!(out, "<p>{} more findings are not listed.</p>", count(all - listed));
        }
    }
    out
}

/// Returns the result of the check in a sentence.
fn summary(report: Option<&CheckReport>) -> String {
    let Some(report) = report else {
        return "The metadata was not checked, or the format has no check.".into();
    };
    let counts = [
        (report.corruptions, "inconsistencies"),
        (report.leaks, "leaked clusters"),
        (report.check_errors, "structures that could not be checked"),
        (report.warnings, "warnings"),
    ];
    let found: Vec<_> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{} {what}", count(*n)))
        .collect();
    match found.is_empty() {
        true => "The check of the image’s metadata found no errors.".into(),
        false => format!("The check of the image’s metadata found {}.", found.join(", ")),
    }
}
