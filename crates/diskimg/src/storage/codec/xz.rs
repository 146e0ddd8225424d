//! xz.

use lzma_rust2::XzReader;
use std::io::{self, Read};

/// Maximum memory of a decoder in KiB: the dictionary of `xz -9`, and what it needs besides.
/// hdiutil uses smaller ones.
const MEMORY_KIB: u32 = (64 << 10) + 1024;

/// Decompresses until the unit is full.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidData`] if the stream is damaged, yields fewer bytes, or needs
/// more memory.
pub(super) fn decode(stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
    let wanted = unit.len();
    let damaged = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let mut reader = XzReader::new_mem_limit(stored, false, MEMORY_KIB);
    let mut at = 0;
    while at < wanted {
        match reader.read(&mut unit[at..]) {
            Ok(0) => {
                let message = format!("the xz stream yields {at} bytes instead of {wanted}");
                return Err(damaged(message));
            }
            Ok(n) => at += n,
            Err(error) => return Err(damaged(format!("damaged xz stream: {error}"))),
        }
    }
    Ok(())
}
