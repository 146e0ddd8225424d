//! What servers of NBD send.

/// A byte that selects what follows: all that a server sends, its replies, or how a right reply is
/// split into chunks, which must be read as it is.
pub(crate) fn replies(input: &[u8]) {
    #[cfg(unix)]
    diskimg_remote::nbd::receive_for_fuzzing(input);
    #[cfg(not(unix))]
    let _ = input;
}

pub(crate) fn replies_seeds() -> Vec<Vec<u8>> {
    #[cfg(unix)]
    return diskimg_remote::nbd::seeds_for_fuzzing();
    #[cfg(not(unix))]
    vec![vec![0]]
}
