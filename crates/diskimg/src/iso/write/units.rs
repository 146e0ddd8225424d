//! Names as UTF-16 units, for Joliet and UDF.

/// Maximum length in UTF-16 units of an extension that is kept when a name is truncated.
const EXTENSION: usize = 16;

/// Returns `name` with at most `room` units. A longer name, or one with a number, is cut before its
/// extension, not within a surrogate pair; then the number is inserted.
pub(super) fn fit(name: &[u16], room: usize, number: Option<u32>) -> Vec<u16> {
    let digits: Vec<u16> =
        number.map(|n| format!("{n:03}").encode_utf16().collect()).unwrap_or_default();
    if digits.is_empty() && name.len() <= room {
        return name.to_vec();
    }
    let dot = name.iter().rposition(|&unit| unit == u16::from(b'.'));
    let dot = dot.filter(|&at| at > 0 && name.len() - at - 1 <= EXTENSION);
    let (base, extension) = name.split_at(dot.unwrap_or(name.len()));
    let mut kept = base.len().min(room - extension.len() - digits.len());
    if base[..kept].last().is_some_and(|unit| (0xD800..0xDC00).contains(unit)) {
        kept -= 1;
    }
    [&base[..kept], &digits, extension].concat()
}
