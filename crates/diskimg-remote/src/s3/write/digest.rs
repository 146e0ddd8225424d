//! Checksums of parts, by which the store and this client know that nothing was changed on the way.

use crate::upload::hash::{hex, md5_of_etag};
use base64::prelude::{BASE64_STANDARD, Engine};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// Which checksum a store verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// `x-amz-checksum-crc32c`: Amazon's.
    Crc32c,
    /// `Content-MD5`, which others verify.
    Md5,
}

/// The checksums of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digests {
    /// That which the store verifies.
    pub(super) checksum: Vec<u8>,
    /// The SHA-256 hash, in hexadecimal, if the request signs it.
    pub(super) sha256: Option<String>,
}

impl Digests {
    /// Reads a part.
    ///
    /// # Errors
    /// Returns the error of reading.
    pub(super) fn of(
        mut reader: impl Read,
        checksum: Checksum,
        signs_body: bool,
    ) -> io::Result<Self> {
        let mut buf = vec![0; BUFFER];
        let (mut crc, mut md5, mut sha) = (0, Md5::new(), signs_body.then(Sha256::new));
        loop {
            let n = reader.read(&mut buf)?;
            if n == 0 {
                break;
            }
            match checksum {
                Checksum::Crc32c => crc = crc32c::crc32c_append(crc, &buf[..n]),
                Checksum::Md5 => md5.update(&buf[..n]),
            }
            if let Some(sha) = &mut sha {
                sha.update(&buf[..n]);
            }
        }
        let checksum = match checksum {
            Checksum::Crc32c => crc.to_be_bytes().to_vec(),
            Checksum::Md5 => md5.finalize().to_vec(),
        };
        let sha256 = sha.map(|sha| hex(&sha.finalize()));
        Ok(Self { checksum, sha256 })
    }

    /// Returns the checksum as headers and XML contain it.
    pub(super) fn base64(&self) -> String {
        BASE64_STANDARD.encode(&self.checksum)
    }
}

/// Returns the `ETag` of an object of parts with these, if they are MD5 hashes, as most stores
/// compute it.
pub(super) fn etag_of_parts<'e>(etags: impl ExactSizeIterator<Item = &'e str>) -> Option<String> {
    let count = etags.len();
    let mut md5 = Md5::new();
    for etag in etags {
        md5.update(md5_of_etag(etag)?);
    }
    Some(format!("\"{}-{count}\"", hex(&md5.finalize())))
}

/// Returns Amazon's checksum of an object of parts with these.
pub(super) fn crc32c_of_parts<'d>(parts: impl ExactSizeIterator<Item = &'d [u8]>) -> String {
    let count = parts.len();
    let crc = parts.fold(0, crc32c::crc32c_append);
    format!("{}-{count}", BASE64_STANDARD.encode(crc.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        let digests = Digests::of(&b"123456789"[..], Checksum::Crc32c, true).expect("reads");
        assert_eq!(digests.checksum, 0xe306_9283_u32.to_be_bytes());
        let sha = digests.sha256.expect("was asked for");
        assert!(sha.starts_with("15e2b0d3c33891ebb0f1ef609ec41942"), "{sha}");
        let digests = Digests::of(&b""[..], Checksum::Md5, false).expect("reads");
        assert_eq!(digests.base64(), "1B2M2Y8AsgTpgAmY7PhCfg==");
        assert_eq!(digests.sha256, None);
    }

    #[test]
    fn the_etag_of_parts_is_a_hash_of_hashes() {
        // Of parts with the bytes "a" and "b".
        let etags = ["\"0cc175b9c0f1b6a831c399e269772661\"", "92eb5ffee6ae2fec3ad71c777531578f"];
        let expected = "\"96e024ba2074fe77e8e965ba43a704be-2\"";
        assert_eq!(etag_of_parts(etags.into_iter()).as_deref(), Some(expected));
        assert_eq!(etag_of_parts(["\"abc\""].into_iter()), None);
    }
}
