//! What web servers send.

/// Lines of headers; the first one is also a location and a name inside an image.
pub(crate) fn answers(input: &[u8]) {
    diskimg_remote::http::parse_for_fuzzing(input);
}

pub(crate) fn answers_seeds() -> Vec<Vec<u8>> {
    diskimg_remote::http::seeds_for_fuzzing()
}
