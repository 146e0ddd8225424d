//! What the decoders of the LZ77 family that are our own have in common.

use std::io;

/// Appends a match to the first `at` bytes of `unit`: `len` bytes, each of which equals the byte
/// `distance` bytes before. What does not fit in the unit is cut off.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidData`] if the match starts before the unit.
#[inline]
pub(super) fn copy_match(
    unit: &mut [u8],
    at: &mut usize,
    len: usize,
    distance: usize,
) -> io::Result<()> {
    let Some(from) = at.checked_sub(distance).filter(|_| distance > 0) else {
        return Err(damaged(format!("a match at {at} refers to {distance} bytes before")));
    };
    let len = len.min(unit.len() - *at);
    if len <= distance {
        unit.copy_within(from..from + len, *at);
    } else if distance == 1 {
        let byte = unit[from];
        unit[*at..*at + len].fill(byte);
    } else {
        // The bytes repeat: each copy may be as long as all before it.
        let mut done = 0;
        while done < len {
            let n = (distance + done).min(len - done);
            unit.copy_within(from..from + n, *at + done);
            done += n;
        }
    }
    *at += len;
    Ok(())
}

pub(super) fn damaged(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Returns the error for a stream that ends after `len` of `wanted` bytes.
pub(super) fn too_short(codec: &str, len: usize, wanted: usize) -> io::Error {
    damaged(format!("the {codec} stream yields {len} bytes instead of {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_of_any_distance_repeat_what_precedes_them() {
        for distance in 1..20 {
            for len in 0..64 {
                let mut unit: Vec<u8> = (0..20).chain([0; 50]).collect();
                let mut at = 20;
                copy_match(&mut unit, &mut at, len, distance).expect("copies");
                assert_eq!(at, (20 + len).min(70));
                assert!((20..at).all(|i| unit[i] == unit[i - distance]), "{distance} {len}");
                assert!(unit[at..].iter().all(|&byte| byte == 0));
            }
        }
        copy_match(&mut [0; 9], &mut 4, 1, 5).expect_err("before the unit");
        copy_match(&mut [0; 9], &mut 4, 1, 0).expect_err("the byte itself");
    }
}
