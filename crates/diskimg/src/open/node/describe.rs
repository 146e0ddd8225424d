//! Nodes as JSON text, for the names of images that are not plain files.

use super::window::Window;
use std::fmt::Write;

/// Returns a format node as a JSON object.
pub(super) fn format_node(
    driver: &str,
    window: Option<&Window>,
    key_secret: Option<&str>,
    file: &str,
) -> String {
    let mut json = format!("{{\"driver\": {}", quoted(driver));
    if let Some(id) = key_secret {
        let _ = write!(json, ", \"encrypt.key-secret\": {}", quoted(id));
    }
    if let Some(window) = window {
        for (key, value) in [("offset", window.offset), ("size", window.size)] {
            if let Some(value) = value {
                let _ = write!(json, ", \"{key}\": {value}");
            }
        }
    }
    json + ", \"file\": " + file + "}"
}

/// Returns a file node as a JSON object.
pub(super) fn file_node(name: &str) -> String {
    format!("{{\"driver\": \"file\", \"filename\": {}}}", quoted(name))
}

/// Returns the node of a URL as a JSON object.
pub(super) fn url_node(driver: &str, url: &str) -> String {
    format!("{{\"driver\": {}, \"url\": {}}}", quoted(driver), quoted(url))
}

/// Returns a JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}
