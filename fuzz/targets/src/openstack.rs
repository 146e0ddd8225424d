//! Files and replies of OpenStack.

/// A byte that selects what is parsed, then a text.
pub(crate) fn replies(input: &[u8]) {
    match input.split_first() {
        Some((2, text)) => diskimg_remote::swift::parse_for_fuzzing(text),
        _ => diskimg_remote::openstack::parse_for_fuzzing(input),
    }
}

pub(crate) fn replies_seeds() -> Vec<Vec<u8>> {
    let seeds: [(u8, &str); 4] = [
        (0, "clouds:\n  a: &x\n    auth: {auth_url: 'https://k', username: u}\n  b:\n    <<: *x\n"),
        (
            1,
            "{\"token\":{\"expires_at\":\"2099-01-01T00:00:00.000000Z\",\"catalog\":[{\"type\":\
             \"object-store\",\"endpoints\":[{\"interface\":\"public\",\"region_id\":\"r\",\
             \"url\":\"https://s/v1/a\"}]}]}}",
        ),
        (1, "{\"error\":{\"code\":401,\"message\":\"\\u001b[0m\"}}"),
        (
            2,
            "{\"swift\":{\"max_file_size\":5368709122},\"slo\":{\"max_manifest_segments\":1000,\
             \"min_segment_size\":1}}",
        ),
    ];
    seeds.iter().map(|(kind, text)| [&[*kind], text.as_bytes()].concat()).collect()
}
