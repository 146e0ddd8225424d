//! Replies of S3 stores and of the services that issue keys.

/// A byte that selects what is parsed, then a text.
pub(crate) fn replies(input: &[u8]) {
    diskimg_remote::s3::parse_for_fuzzing(input);
}

pub(crate) fn replies_seeds() -> Vec<Vec<u8>> {
    let seeds: [(u8, &str); 6] = [
        (
            0,
            "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code>\
             <Message>m</Message><Region>eu-west-1</Region></Error>",
        ),
        (0, "{\"__type\":\"ExpiredTokenException\",\"message\":\"\\u001b[0m\"}"),
        (
            1,
            "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId>\
             <SecretAccessKey>S</SecretAccessKey><SessionToken>T</SessionToken>\
             <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>\
             </AssumeRoleResponse>",
        ),
        (
            2,
            "{\"roleCredentials\":{\"accessKeyId\":\"A\",\"secretAccessKey\":\"S\",\
             \"sessionToken\":\"T\",\"expiration\":4070908800000}}",
        ),
        (
            3,
            "{\"diskimg-upload\":1,\"destination\":\"s3://b/k\",\"upload\":\"u\",\
             \"parts\":{\"2\":{\"len\":8,\"sha256\":\"aa\",\"etag\":\"e\"}}}",
        ),
        (4, "[default]\nregion = r\n[profile a]\nsso_session = s\n[sso-session s]\nx = y\n"),
    ];
    seeds.iter().map(|(kind, text)| [&[*kind], text.as_bytes()].concat()).collect()
}
