//! Each source of keys, with a server that plays all services.

use super::*;
use crate::http::tests::server::{Received, Reply, Server};
use crate::s3::tests::http_options;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// A home directory, and a server.
struct Lab {
    home: TempDir,
    server: Server,
}

impl Lab {
    fn new(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(home.path().join(".aws/sso/cache")).expect("creates");
        Self { home, server: Server::start(move |received, _| answer(received)) }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path.display().to_string()
    }

    fn url(&self) -> String {
        self.server.url("")
    }

    fn chain(&self, profile: Option<&str>, variables: &[(&str, &str)]) -> Credentials {
        let home = self.home.path().display().to_string();
        let url = self.url();
        let own = [
            ("HOME", &*home),
            ("AWS_ENDPOINT_URL_STS", &url),
            ("AWS_ENDPOINT_URL_SSO", &url),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url),
        ];
        // The first value counts.
        let environment = Environment::of(&[variables, &own].concat());
        Credentials::new(Chain {
            keys: None,
            profile: profile.map(str::to_owned),
            environment,
            services: Services::new(&http_options()).expect("is valid"),
        })
    }

    /// Returns the access key, its secret and its token, or the error.
    fn keys(&self, profile: Option<&str>, variables: &[(&str, &str)]) -> Result<String, String> {
        shown(self.chain(profile, variables).keys())
    }
}

fn shown(keys: Attempt<Arc<Issued>>) -> Result<String, String> {
    match keys {
        Ok(issued) => {
            let keys = &issued.keys;
            Ok(format!("{} {} {}", keys.access(), keys.secret(), keys.token().unwrap_or("-")))
        }
        Err(Failure::Final(error)) => Err(error.to_string()),
        Err(Failure::Temporary(error, _)) => Err(format!("temporary: {error}")),
    }
}

const JSON: &str = "{\"AccessKeyId\":\"JA\",\"SecretAccessKey\":\"JS\",\"Token\":\"JT\",\
     \"Expiration\":\"2099-01-01T00:00:00Z\"}";

fn ok(body: &str) -> Reply {
    Reply::new("200 OK", &[], body.as_bytes())
}

fn refused() -> Reply {
    Reply::new("404 Not Found", &[], b"")
}

/// An answer of the token service.
fn sts(access: &str) -> Reply {
    ok(&format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <Credentials><AccessKeyId>{access}</AccessKeyId><SecretAccessKey>SS</SecretAccessKey>\
         <SessionToken>ST</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>\
         </Credentials></AssumeRoleResult></AssumeRoleResponse>"
    ))
}

#[test]
fn the_sources_are_asked_in_their_order() {
    let lab = Lab::new(|received| match &*received.path {
        "/keys" => ok(JSON),
        "/" => sts("WA"),
        _ => refused(),
    });
    lab.file(".aws/credentials", "[default]\naws_access_key_id=PA\naws_secret_access_key=PS\n");
    let token = lab.file("token", " web-token\n");
    let container = format!("{}/keys", lab.url());
    let mut variables = vec![
        ("AWS_ACCESS_KEY_ID", "EA"),
        ("AWS_SECRET_ACCESS_KEY", " ES "),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &*token),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*container),
    ];
    assert_eq!(lab.keys(None, &variables).as_deref(), Ok("EA ES -"));
    assert_eq!(lab.keys(Some("default"), &variables).as_deref(), Ok("PA PS -"));
    variables.drain(..2);
    assert_eq!(lab.keys(None, &variables).as_deref(), Ok("WA SS ST"));
    let body = String::from_utf8(lab.server.received()[0].body.clone()).expect("is text");
    assert!(body.contains("Action=AssumeRoleWithWebIdentity&"), "{body}");
    assert!(body.contains("&WebIdentityToken=web-token&Version=2011-06-15"), "{body}");
    assert!(body.contains("&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&"), "{body}");
    assert_eq!(lab.server.received()[0].header("authorization"), None);
    variables.drain(..2);
    assert_eq!(lab.keys(None, &variables).as_deref(), Ok("PA PS -"));
    lab.file(".aws/credentials", "");
    assert_eq!(lab.keys(None, &variables).as_deref(), Ok("JA JS JT"));
    let none = lab.keys(None, &[("AWS_EC2_METADATA_DISABLED", "true")]).expect_err("has none");
    assert!(none.contains("no access keys were found"), "{none}");
    let half = lab.keys(None, &[("AWS_ACCESS_KEY_ID", "EA")]).expect_err("is half");
    assert!(half.contains("AWS_SECRET_ACCESS_KEY"), "{half}");
    let named = lab.keys(None, &[("AWS_PROFILE", "absent")]).expect_err("is absent");
    assert!(named.contains("no profile 'absent'"), "{named}");
}

#[test]
fn roles_of_profiles_are_assumed() {
    let lab = Lab::new(|received| match received.header("authorization") {
        Some(signed) if signed.contains("Credential=PA/") && signed.contains("/eu-x/sts/") => {
            sts("R1")
        }
        Some(signed) if signed.contains("Credential=R1/") => sts("R2"),
        _ => refused(),
    });
    lab.file(".aws/credentials", "[base]\naws_access_key_id=PA\naws_secret_access_key=PS\n");
    lab.file(
        ".aws/config",
        "[profile one]\nrole_arn=arn:1\nsource_profile=base\nregion=eu-x\nexternal_id=a b\n\
         [profile two]\nrole_arn=arn:2\nsource_profile=one\n\
         [profile loop]\nrole_arn=arn:3\nsource_profile=loop\n\
         [profile a]\nrole_arn=arn:3\nsource_profile=b\n[profile b]\nrole_arn=arn:3\nsource_profile=a\n\
         [profile mfa]\nrole_arn=arn:3\nsource_profile=base\nmfa_serial=x\n\
         [profile process]\ncredential_process=/bin/false\n\
         [profile lost]\nrole_arn=arn:3\nsource_profile=absent\n\
         [profile env]\nrole_arn=arn:4\ncredential_source=Environment\nregion=eu-x\n",
    );
    assert_eq!(lab.keys(Some("one"), &[]).as_deref(), Ok("R1 SS ST"));
    let body = String::from_utf8(lab.server.received()[0].body.clone()).expect("is text");
    assert!(body.contains("RoleArn=arn%3A1&") && body.contains("ExternalId=a%20b&"), "{body}");
    assert_eq!(lab.keys(Some("two"), &[]).as_deref(), Ok("R2 SS ST"));
    let keys = [("AWS_ACCESS_KEY_ID", "PA"), ("AWS_SECRET_ACCESS_KEY", "PS")];
    assert_eq!(lab.keys(Some("env"), &keys).as_deref(), Ok("R1 SS ST"));
    for (profile, expected) in [
        ("loop", "refers to itself"),
        ("a", "refers to itself"),
        ("mfa", "aws configure export-credentials --profile mfa"),
        ("process", "aws configure export-credentials --profile process"),
        ("lost", "no profile 'absent'"),
        ("absent", "no profile 'absent'"),
    ] {
        let error = lab.keys(Some(profile), &[]).expect_err(profile);
        assert!(error.contains(expected), "{profile}: {error}");
    }
}

#[test]
fn single_sign_on_uses_the_token_of_the_login() {
    let lab = Lab::new(|received| {
        let is_right = received.header("x-amz-sso_bearer_token") == Some("bearer")
            && received.path == "/federation/credentials?account_id=12&role_name=a%20b";
        match is_right {
            true => ok("{\"roleCredentials\":{\"accessKeyId\":\"SA\",\"secretAccessKey\":\"SS\",\
                 \"sessionToken\":\"ST\",\"expiration\":4070908800000}}"),
            false => Reply::new("401 Unauthorized", &[], b"{\"message\":\"no\"}"),
        }
    });
    lab.file(
        ".aws/config",
        "[sso-session corp]\nsso_region=eu-1\nsso_start_url=https://corp\n\
         [profile new]\nsso_session=corp\nsso_account_id=12\nsso_role_name=a b\n\
         [profile old]\nsso_start_url=https://corp\nsso_region=eu-1\nsso_account_id=12\n\
         sso_role_name=a b\n",
    );
    let error = lab.keys(Some("new"), &[]).expect_err("is not logged in");
    assert!(error.contains("aws sso login"), "{error}");
    let token = |expires: &str| {
        format!("{{\"accessToken\":\"bearer\",\"expiresAt\":\"{expires}\",\"region\":\"eu-1\"}}")
    };
    let name = |text: &str| {
        use sha1::{Digest, Sha1};
        format!(".aws/sso/cache/{}.json", crate::upload::hash::hex(&Sha1::digest(text.as_bytes())))
    };
    lab.file(&name("corp"), &token("2099-01-01T00:00:00Z"));
    lab.file(&name("https://corp"), &token("2001-01-01T00:00:00Z"));
    assert_eq!(lab.keys(Some("new"), &[]).as_deref(), Ok("SA SS ST"));
    lab.keys(Some("old"), &[]).expect_err("has expired");
    lab.file(&name("https://corp"), &token("2099-01-01T00:00:00UTC"));
    lab.keys(Some("old"), &[]).expect_err("is malformed");
}

#[test]
fn an_instance_is_asked_with_a_token_only() {
    let lab = Lab::new(|received| {
        let has_token = received.header("x-aws-ec2-metadata-token") == Some("imds");
        match (&*received.method, &*received.path) {
            ("PUT", "/latest/api/token") => {
                assert_eq!(received.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("21600"));
                ok("imds")
            }
            ("GET", "/latest/meta-data/iam/security-credentials/") if has_token => ok("role\n"),
            ("GET", "/latest/meta-data/iam/security-credentials/role") if has_token => ok(JSON),
            _ => Reply::new("401 Unauthorized", &[], b""),
        }
    });
    assert_eq!(lab.keys(None, &[]).as_deref(), Ok("JA JS JT"));
    assert_eq!(lab.server.received().len(), 3);
    // Without version 2, version 1 is not tried.
    let old = Lab::new(|received| match &*received.method {
        "GET" => ok(JSON),
        _ => refused(),
    });
    old.keys(None, &[]).expect_err("is refused");
    assert!(old.server.received().iter().all(|r| r.method == "PUT"));
}

#[test]
fn a_container_is_asked_with_the_token_of_the_file() {
    let lab = Lab::new(|received| match received.header("authorization") {
        Some("Bearer 1") => ok(JSON),
        _ => refused(),
    });
    let file = lab.file("token", "Bearer 1\n");
    let uri = format!("{}/x", lab.url());
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*uri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer 0"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*file),
    ];
    assert_eq!(lab.keys(None, &variables).as_deref(), Ok("JA JS JT"));
    lab.keys(None, &variables[..2]).expect_err("is refused");
    for uri in [
        "http://169.254.169.254/x",
        "http://example.org/x",
        "http://127.0.0.1.example.org/x",
        "ftp://localhost/x",
        "x",
    ] {
        let error = lab.keys(None, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)]);
        assert!(error.expect_err(uri).contains("AWS_CONTAINER_CREDENTIALS_FULL_URI"));
    }
}

#[test]
fn services_that_repeat_tokens_are_not_quoted() {
    let lab = Lab::new(|received| {
        let token = received.header("authorization").unwrap_or_default();
        let said = format!(
            "{{\"code\":\"Odd\",\"message\":\"{token} {}\"}}",
            String::from_utf8_lossy(&received.body).replace("identity%2Ftoken", "identity/token")
        );
        Reply::new("400 Bad Request", &[], said.as_bytes())
    });
    let url = format!("{}/keys", lab.url());
    let file = lab.file("token", "identity/token\n");
    for variables in [
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer container-token"),
        ],
        vec![("AWS_WEB_IDENTITY_TOKEN_FILE", &*file), ("AWS_ROLE_ARN", "arn:r")],
    ] {
        let message = lab.keys(None, &variables).expect_err("is refused");
        assert!(message.contains("Odd") && message.contains("***"), "{message}");
        assert!(!message.contains("-token") && !message.contains("/token"), "{message}");
    }
}

#[test]
fn keys_are_renewed_before_they_expire() {
    let count = Arc::new(AtomicUsize::new(0));
    let issued = Arc::clone(&count);
    // The first ones expire in a minute, and then the service is away.
    let lab = Lab::new(move |_| match issued.fetch_add(1, Ordering::Relaxed) {
        0 => {
            let expires = Timestamp::now() + SignedDuration::from_mins(1);
            ok(&JSON.replace("2099-01-01T00:00:00Z", &expires.to_string()))
        }
        1 => Reply::new("503 Service Unavailable", &[], b""),
        _ => ok(&JSON.replace("JA", "NEW")),
    });
    let uri = format!("{}/x", lab.url());
    let credentials = lab.chain(None, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]);
    for (expected, requests) in [("JA JS JT", 1), ("JA JS JT", 2), ("JA JS JT", 2)] {
        assert_eq!(shown(credentials.keys()).as_deref(), Ok(expected));
        assert_eq!(count.load(Ordering::Relaxed), requests);
    }
    credentials.state.lock().expect("no panic").failed = None;
    assert_eq!(shown(credentials.keys()).as_deref(), Ok("NEW JS JT"));
    // Several threads ask once.
    let lab = Lab::new(|_| ok(JSON));
    let uri = format!("{}/x", lab.url());
    let credentials = lab.chain(None, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| shown(credentials.keys()).expect("has keys"));
        }
    });
    assert_eq!(lab.server.received().len(), 1);
}

#[test]
fn replies_that_are_malformed_are_refused() {
    for reply in [
        "",
        "{}",
        "[]",
        "{\"AccessKeyId\":1}",
        &JSON.replace("2099", "soon"),
        &JSON.replace("JA", "a\\nb"),
    ] {
        let text = reply.to_owned();
        let lab = Lab::new(move |_| ok(&text));
        let uri = format!("{}/x", lab.url());
        lab.keys(None, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]).expect_err(reply);
    }
    assert!(keys_of_xml("<a/>").is_none());
}

#[test]
fn a_directory_that_kubernetes_replaces_may_be_read_as_a_whole() {
    let lab = Lab::new(|_| refused());
    let token = lab.file("token", "x");
    let home = lab.home.path().display().to_string();
    let environment = Environment::of(&[("HOME", &home), ("AWS_WEB_IDENTITY_TOKEN_FILE", &token)]);
    let aws = lab.home.path().join(".aws");
    let own = [aws.join("config"), aws.join("credentials"), aws.join("sso/cache")];
    assert_eq!(environment.files(), [&own[..], &[token.into()]].concat());
    std::fs::create_dir(lab.home.path().join("..data")).expect("creates");
    assert_eq!(environment.files()[3], lab.home.path());
    assert!(Environment::empty().files().is_empty());
}
