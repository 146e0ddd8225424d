//! Draws a [`Picture`]: a page with a map that can be zoomed, and a strip as SVG.
//!
//! ```text
//!   page.html   the page, with placeholders {{name}}     page.css             its style
//!   draw.js     draws the map                            page.js              zoom, keys, words
//!   tables.rs   tables, which need no script             facts.rs             what stands out
//!   strip.rs    the disk as a strip, which needs none    text.rs              escaping, sizes
//! ```
//!
//! Names come from untrusted images. In HTML, they are escaped, also for terminals' sake
//! ([`printable`]): a page may be printed as text. The data for the script is JSON that cannot end
//! its element. A content security policy allows the page's own script and styles, by their digests,
//! and nothing else: no network, no other script.

mod facts;
mod strip;
mod tables;
mod text;

use crate::report::picture::Picture;
use crate::report::printable::printable;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use text::{bytes, count, escape, json_in_html};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("draw.js"), include_str!("page.js"));

/// Number of columns of the strip.
const COLUMNS: u64 = 256;

impl Picture {
    /// Returns a page that shows the picture: a map of the disk and its files that can be zoomed,
    /// with tables of the layers, the states, the fragmentation, the partitions and the findings.
    ///
    /// The page is a single file of at most a few megabytes. It loads nothing from the network and
    /// runs no script but its own; without scripts, it shows the tables and a strip. Names from the
    /// image are escaped.
    pub fn to_html(&self) -> String {
        let picture = self.printable();
        fill(TEMPLATE, |key| match key {
            "policy" => policy(),
            "style" => unix(STYLE),
            "script" => unix(SCRIPT),
            "title" => escape(base_name(&picture.filename)).into_owned(),
            "path" => path(&picture.filename),
            "tags" => tables::tags(&picture),
            "tiles" => tables::tiles(&picture),
            "facts" => facts::list(&picture),
            "strip" => strip::svg(&picture, COLUMNS),
            "legend" => strip::legend(&picture),
            "layers" => tables::layers(&picture),
            "states" => tables::states(&picture),
            "fragmentation" => tables::fragmentation(&picture),
            "partitions" => tables::partitions(&picture),
            "findings" => tables::findings(&picture),
            "data" => json_in_html(&picture),
            "version" => env!("CARGO_PKG_VERSION").to_owned(),
            _ => String::new(),
        })
    }

    /// Returns the disk as a strip: an SVG image of at most a few hundred kilobytes, usually a few.
    /// Its colors suit light and dark backgrounds.
    pub fn to_svg(&self) -> String {
        strip::svg(&self.printable(), COLUMNS)
    }

    /// Returns a fragment of HTML for notebooks, of a few kilobytes: the strip, and a line of facts.
    /// It has no script and no styles that apply to anything else.
    pub fn to_html_summary(&self) -> String {
        let picture = self.printable();
        let totals = &picture.totals;
        let mut facts = vec![
            picture.format.clone(),
            format!("{} virtual", bytes(picture.virtual_size)),
            format!("{} stored", bytes(totals.stored())),
            format!("{} runs", count(picture.fragmentation.runs)),
        ];
        if let Some(size) = picture.actual_size() {
            facts.insert(2, format!("{} on the host", bytes(size)));
        }
        if picture.layers.len() > 1 {
            facts.push(format!("{} layers", picture.layers.len()));
        }
        if let Some(table) = &picture.partition_table {
            facts.push(format!("{} partitions ({})", table.partitions.len(), table.kind));
        }
        format!(
            "<div style=\"max-width:60em\"><div><b>{}</b> · {}</div>{}</div>",
            escape(base_name(&picture.filename)),
            escape(&facts.join(" · ")),
            strip::svg(&picture, COLUMNS / 2)
        )
    }

    /// Returns the bytes that all layers take in the host's file systems, if all are known.
    pub fn actual_size(&self) -> Option<u64> {
        let sizes = self.layers.iter().map(|layer| layer.actual_size);
        sizes.reduce(|a, b| Some(a?.saturating_add(b?))).flatten()
    }

    /// Returns the picture with all text escaped for display.
    fn printable(&self) -> Self {
        let mut picture = self.clone();
        let show = |text: &mut String| *text = printable(text).into_owned();
        show(&mut picture.filename);
        for layer in &mut picture.layers {
            show(&mut layer.filename);
            layer.files.iter_mut().for_each(|file| show(&mut file.filename));
        }
        for partition in picture.partition_table.iter_mut().flat_map(|table| &mut table.partitions)
        {
            show(&mut partition.name);
            show(&mut partition.kind);
        }
        for finding in picture.check.iter_mut().flat_map(|check| &mut check.findings) {
            show(&mut finding.message);
            finding.path.iter_mut().for_each(show);
        }
        picture.warnings.iter_mut().for_each(show);
        picture
    }
}

/// Returns the path below the title, unless it is the title.
fn path(path: &str) -> String {
    match path == base_name(path) {
        true => String::new(),
        false => format!("<p class=\"path\"><bdi>{}</bdi></p>\n", escape(path)),
    }
}

/// Returns the content security policy of the page.
fn policy() -> String {
    let digest = |text| BASE64_STANDARD.encode(Sha256::digest(unix(text)));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'",
        digest(SCRIPT),
        digest(STYLE)
    )
}

/// Returns text with Unix line ends, which browsers compute digests of. A checkout on Windows may
/// have others.
fn unix(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// Returns the last component of a path.
fn base_name(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Replaces the placeholders of a template. What replaces them is not searched for others.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((key, after)) = after.split_once("}}") else { break };
        out.push_str(before);
        out.push_str(&value(key));
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
