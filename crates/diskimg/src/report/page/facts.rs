//! What stands out in a picture, in sentences.

use super::base_name;
use super::text::{bytes, count, escape, percent};
use crate::report::picture::Picture;

/// Space in a file that is worth mentioning, in bytes.
const MUCH: u64 = 16 << 20;

/// Mean length of a run below which sequential reading is slow, in bytes.
const SHORT_RUN: u64 = 1 << 20;

/// Returns the facts as a list; empty if nothing stands out.
pub(super) fn list(picture: &Picture) -> String {
    let facts = [stored(picture), runs(picture)];
    let items = facts.into_iter().flatten().chain(layers(picture)).chain(partitions(picture));
    let items: String = items.map(|fact| format!("<li>{}</li>", escape(&fact))).collect();
    match items.is_empty() {
        true => items,
        false => format!("<ul class=\"facts\">{items}</ul>"),
    }
}

/// Describes how much of the disk is stored.
fn stored(picture: &Picture) -> Option<String> {
    let totals = &picture.totals;
    if picture.virtual_size == 0 {
        return None;
    }
    if totals.stored() == 0 {
        return Some("Nothing is stored: the whole disk reads as zeros.".to_owned());
    }
    let share = percent(totals.stored(), picture.virtual_size);
    let compressed = match totals.compressed {
        0 => String::new(),
        n => format!("; {} of that is compressed", percent(n, totals.stored())),
    };
    Some(format!("{share} of the disk is stored{compressed}. The rest reads as zeros."))
}

/// Describes the fragmentation.
fn runs(picture: &Picture) -> Option<String> {
    let found = &picture.fragmentation;
    let mean = found.mean_run();
    if found.runs < 2 {
        let whole = found.runs == 1;
        return whole.then(|| "The stored data is contiguous: one run.".to_owned());
    }
    let sequential = found.sequential().unwrap_or(0);
    let runs = count(found.runs);
    match mean < SHORT_RUN && sequential < 9_000 {
        true => Some(format!(
            "Fragmented: {runs} runs of {} on average. Reading the disk from start to end jumps \
             often; converting the image to a new one makes it contiguous.",
            bytes(mean)
        )),
        false => Some(format!("Little fragmentation: {runs} runs of {} on average.", bytes(mean))),
    }
}

/// Describes what is notable about the layers.
fn layers(picture: &Picture) -> Vec<String> {
    let mut out = Vec::new();
    for (depth, layer) in picture.layers.iter().enumerate().take(8) {
        let name = base_name(&layer.filename);
        let hidden = layer.hidden().unwrap_or(0);
        if hidden >= MUCH {
            let own = layer.own.map_or(0, |own| own.stored());
            out.push(format!(
                "{} of what layer {depth} ({name}) stores ({}) is replaced by layers above it.",
                bytes(hidden),
                percent(hidden, own)
            ));
        }
        let visible = layer.own.map_or(0, |own| own.stored());
        let is_plain = layer.own.is_some_and(|own| own.compressed == 0) && layer.cluster_size > 1;
        let other = layer.actual_size.unwrap_or(0).saturating_sub(visible);
        if is_plain && other >= MUCH && other > visible / 8 {
            out.push(format!(
                "Layer {depth} ({name}) takes {} more on the host than it has data for the guest: \
                 metadata, snapshots, or space that is no longer used.",
                bytes(other)
            ));
        }
        if depth > 0 && layer.visible.stored() == 0 && layer.visible.zero == 0 {
            out.push(format!("Nothing of layer {depth} ({name}) is visible."));
        }
    }
    out
}

/// Describes partitions that are empty.
fn partitions(picture: &Picture) -> Vec<String> {
    let table = picture.partition_table.iter();
    let empty = table
        .flat_map(|table| &table.partitions)
        .filter(|partition| partition.totals.stored() == 0 && partition.length >= MUCH);
    empty
        .take(4)
        .map(|partition| {
            format!("Partition {} ({}) has no data.", partition.number, partition.kind)
        })
        .collect()
}
