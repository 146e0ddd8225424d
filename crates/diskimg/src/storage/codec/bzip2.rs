//! bzip2.

use bzip2::{Decompress, Status};
use std::io;

/// Decompresses until the unit is full.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidData`] if the stream is damaged or yields fewer bytes.
pub(super) fn decode(mut stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
    // The same memory as at the highest level of compression: 4 MB.
    let mut decoder = Decompress::new(false);
    let wanted = unit.len();
    let mut at = 0;
    while at < wanted {
        let before = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(stored, &mut unit[at..]).map_err(|e| {
            io::Error::new(io::ErrorKind::InvalidData, format!("damaged bzip2 stream: {e}"))
        })?;
        let (taken, written) = (decoder.total_in() - before.0, decoder.total_out() - before.1);
        stored = &stored[taken as usize..];
        at += written as usize;
        if at < wanted && (status == Status::StreamEnd || (taken, written) == (0, 0)) {
            let message = format!("the bzip2 stream yields {at} bytes instead of {wanted}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    }
    Ok(())
}
