//! JSON output in the layout of qemu-img.

use crate::failure::Failure;
use crate::output::Console;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::PrettyFormatter;

/// Prints `value` with an indentation of four spaces and a final newline.
pub(crate) fn print(console: &Console, value: &impl Serialize) -> Result<(), Failure> {
    let mut text = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer).map_err(|e| Failure::error(e.to_string()))?;
    text.push(b'\n');
    console.print(&String::from_utf8_lossy(&text))
}
