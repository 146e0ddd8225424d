//! The disk as a strip: a column for each range of guest offsets, divided by layer and state.

use super::text::{bytes, escape};
use crate::report::picture::{Picture, State};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Height of the strip.
const HEIGHT: u64 = 48;

/// Height of the row of partitions above it.
const PARTITIONS: u64 = 14;

/// Width of the image.
const WIDTH: u64 = 1024;

/// Colors of the layers; the deeper ones share the last. They can be told apart by color-blind
/// people (after Okabe and Ito), on light and dark backgrounds.
const COLORS: [&str; 7] =
    ["#1f86c7", "#e69f00", "#00a47a", "#cc79a7", "#d55e00", "#6f7fd8", "#8a8a8a"];

/// Number of units into which a column is divided.
const FULL: u64 = HEIGHT * 4;

/// Index of the color of a layer.
fn color(depth: usize) -> usize {
    depth.min(COLORS.len() - 1)
}

/// For each column and each color and state: the share of the column.
fn columns(picture: &Picture, columns: u64) -> Vec<BTreeMap<(usize, State), f64>> {
    let mut out = vec![BTreeMap::new(); usize::try_from(columns).unwrap_or(0)];
    let width = picture.virtual_size as f64 / columns as f64;
    for part in &picture.parts {
        if part.state == State::Unallocated || part.length == 0 {
            continue;
        }
        let density = part.bytes as f64 / part.length as f64;
        let (start, end) = (part.start as f64 / width, (part.start + part.length) as f64 / width);
        let last = (end.ceil() as usize).min(out.len());
        for (n, column) in out.iter_mut().enumerate().take(last).skip(start as usize) {
            let covered = end.min(n as f64 + 1.0) - start.max(n as f64);
            if covered > 0.0 {
                *column.entry((color(part.depth), part.state)).or_default() += covered * density;
            }
        }
    }
    out
}

/// Returns the strip as SVG, without styles or references to anything outside.
pub(super) fn svg(picture: &Picture, count: u64) -> String {
    let has_partitions =
        picture.partition_table.as_ref().is_some_and(|table| !table.partitions.is_empty());
    let top = if has_partitions { PARTITIONS + 4 } else { 0 };
    let mut paths: BTreeMap<(usize, State), String> = BTreeMap::new();
    let step = WIDTH / count;
    // Columns in which a class has the same place are drawn as one rectangle.
    let mut open: BTreeMap<(usize, State), (u64, u64, u64)> = BTreeMap::new();
    let mut close = |class: (usize, State), (x, y, height): (u64, u64, u64), end: u64| {
        let path = paths.entry(class).or_default();
        let (y, height) = (top as f64 + y as f64 / 4.0, height as f64 / 4.0);
        let _ = write!(path, "M{x} {y}h{}v{height}h-{0}z", end - x);
    };
    for (n, column) in columns(picture, count).iter().enumerate() {
        let x = n as u64 * step;
        let mut now = BTreeMap::new();
        let mut filled = 0.0;
        for (class, share) in column {
            let from = (filled * FULL as f64).round() as u64;
            filled += share;
            // What is stored is visible, however little it is.
            let to = ((filled * FULL as f64).round() as u64).clamp(from + 2, FULL.max(from + 2));
            now.insert(*class, (FULL.saturating_sub(to), to - from));
        }
        let ended: Vec<_> = open
            .iter()
            .filter(|(class, (_, y, height))| now.get(class) != Some(&(*y, *height)))
            .map(|(class, rectangle)| (*class, *rectangle))
            .collect();
        for (class, rectangle) in ended {
            open.remove(&class);
            close(class, rectangle, x);
        }
        for (class, (y, height)) in now {
            open.entry(class).or_insert((x, y, height));
        }
    }
    for (class, rectangle) in open {
        close(class, rectangle, WIDTH);
    }
    draw(picture, top, &paths)
}

/// Draws the rectangles, and the partitions above them.
fn draw(picture: &Picture, top: u64, paths: &BTreeMap<(usize, State), String>) -> String {
    let mut out = String::new();
    let totals = &picture.totals;
    let shown = State::ALL.iter().filter(|&&state| totals.get(state) > 0);
    let words: Vec<_> =
        shown.map(|&state| format!("{} {}", bytes(totals.get(state)), state.name())).collect();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" width=\"100%\" \
         role=\"img\" preserveAspectRatio=\"none\"><title>{} of {}: {}</title>",
        top + HEIGHT,
        escape(&bytes(picture.virtual_size)),
        escape(&picture.filename),
        words.join(", ")
    );
    for (class, _) in paths.iter().filter(|((_, state), _)| *state == State::Compressed) {
        let n = class.0;
        let _ = write!(
            out,
            "<pattern id=\"diskimg-c{n}\" width=\"6\" height=\"6\" \
             patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
             <rect width=\"6\" height=\"6\" fill=\"{0}\" fill-opacity=\".35\"/>\
             <rect width=\"3\" height=\"6\" fill=\"{0}\"/></pattern>",
            COLORS[n]
        );
    }
    let _ = write!(
        out,
        "<rect y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#888\" \
         fill-opacity=\".16\"/>"
    );
    for ((n, state), path) in paths {
        let (fill, opacity) = match state {
            State::Compressed => (format!("url(#diskimg-c{n})"), 1.0),
            State::Zero => (COLORS[*n].to_owned(), 0.3),
            _ => (COLORS[*n].to_owned(), 1.0),
        };
        let _ = write!(out, "<path fill=\"{fill}\" fill-opacity=\"{opacity}\" d=\"{path}\"/>");
    }
    for partition in picture.partition_table.iter().flat_map(|table| &table.partitions) {
        let at = |offset: u64| offset as f64 * WIDTH as f64 / picture.virtual_size.max(1) as f64;
        let (x, end) = (at(partition.start), at(partition.start + partition.length));
        let _ = write!(
            out,
            "<rect x=\"{x:.1}\" y=\"1\" width=\"{:.1}\" height=\"{PARTITIONS}\" fill=\"#888\" \
             fill-opacity=\".5\" stroke=\"#888\"><title>{} {} {}</title></rect>",
            (end - x).max(1.0),
            partition.number,
            escape(&partition.kind),
            escape(&partition.name)
        );
    }
    out.push_str("</svg>");
    out
}

/// Returns the legend: the layers, and the states.
pub(super) fn legend(picture: &Picture) -> String {
    let mut out = String::new();
    for (depth, layer) in picture.layers.iter().enumerate().take(COLORS.len()) {
        let more = picture.layers.len() - depth;
        let name = match more > 1 && depth + 1 == COLORS.len() {
            true => format!("{more} more layers"),
            false => format!("{depth}: {}", super::base_name(&layer.filename)),
        };
        let _ = write!(out, "<li><i class=\"k l{}\"></i>{}</li>", color(depth), escape(&name));
    }
    for state in State::ALL {
        let name = state.name();
        let _ = write!(out, "<li><i class=\"k {name}\"></i>{name}</li>");
    }
    out
}
