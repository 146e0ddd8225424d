//! Percent-encoding: RFC 3986, section 2.1.

/// Returns percent-encoded text decoded.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let encoded = after.get(..2).filter(|_| byte == b'%');
        let code = encoded.and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

/// Returns a percent-encoded part of a URL decoded. A `%` that no two digits follow stands for itself.
///
/// # Errors
/// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is not UTF-8: keys are, and another one would
/// be meant.
#[cfg(any(feature = "s3", feature = "swift"))]
pub(crate) fn name_decoded(text: &str) -> diskimg::Result<String> {
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
    String::from_utf8(bytes).map_err(|_| {
        diskimg::Error::invalid(format!(
            "'{}' is not UTF-8 when it is decoded",
            diskimg::printable(text)
        ))
    })
}
