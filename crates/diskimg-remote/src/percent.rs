//! Percent-encoding: RFC 3986, section 2.1.

/// Returns percent-encoded text decoded. A `%` that no two digits follow stands for itself.
pub(crate) fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// As [`decoded`], for names in URLs.
///
/// # Errors
/// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is not UTF-8: names are, and another one
/// would be meant.
#[cfg(any(feature = "rbd", feature = "s3", feature = "swift"))]
pub(crate) fn name_decoded(text: &str) -> diskimg::Result<String> {
    String::from_utf8(decoded(text)).map_err(|_| {
        let shown = diskimg::printable(text);
        diskimg::Error::invalid(format!("'{shown}' is not UTF-8 when it is decoded"))
    })
}

/// Returns the component of a path percent-encoded: RFC 3986, section 2.3.
#[cfg(feature = "http")]
pub(crate) fn encoded(component: &str) -> String {
    let mut text = String::new();
    for byte in component.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_is_two_hexadecimal_digits() {
        for (text, expected) in [
            ("a%2Fb%2fc", &b"a/b/c"[..]),
            ("%00%fF", b"\0\xff"),
            ("%+f%-1% 1", b"%+f%-1% 1"),
            ("100%", b"100%"),
            ("%4", b"%4"),
            ("%%41", b"%A"),
            ("%4\u{e9}", "%4\u{e9}".as_bytes()),
        ] {
            assert_eq!(decoded(text), expected, "{text}");
        }
    }
}
