//! Hashes in `ETag` headers.

use std::fmt::Write;

/// Returns bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the MD5 hash that an `ETag` consists of.
#[cfg(feature = "s3")]
pub(crate) fn md5_of_etag(etag: &str) -> Option<Vec<u8>> {
    let text = etag.trim_matches('"');
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..16).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect()
}

#[cfg(all(test, feature = "s3"))]
mod tests {
    use super::*;

    #[test]
    fn an_etag_may_be_a_hash() {
        let etag = "\"0cc175b9c0f1b6a831c399e269772661\"";
        let hash = md5_of_etag(etag).expect("is one");
        assert_eq!(format!("\"{}\"", hex(&hash)), etag);
        for other in ["", "\"abc\"", "\"+cc175b9c0f1b6a831c399e269772661\""] {
            assert_eq!(md5_of_etag(other), None, "{other}");
        }
        assert_eq!(md5_of_etag("\"zz\u{e9}175b9c0f1b6a831c399e26977266\""), None);
    }
}
