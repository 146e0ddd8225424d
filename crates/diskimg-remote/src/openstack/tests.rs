//! Settings of users, and services that answer in every way.

use super::*;
use crate::environment::Environment;
use crate::http::HttpOptions;
use crate::http::tests::server::{Reply, Server};
use crate::http::transport::{Failure, Transport};
use diskimg::storage::source::SourceError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn found(variables: &[(&str, &str)], cloud: Option<&str>) -> Result<String, String> {
    let selection = Selection { cloud: cloud.map(str::to_owned), ..Selection::default() };
    let settings = Settings::find(&selection, &Environment::of(variables), "object_store");
    let settings = settings.map_err(|e| format!("{e} {}", e.hint_text().unwrap_or_default()))?;
    let described = Credentials(settings.method.clone()).described();
    Ok(format!("{described} {:?} {}", settings.region, settings.interface))
}

#[test]
fn variables_are_those_of_the_clients() {
    let keystone = [
        ("OS_AUTH_URL", "https://k/identity"),
        ("OS_USERNAME", "u"),
        ("OS_PASSWORD", "p\"w"),
        ("OS_TENANT_NAME", "t"),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_REGION_NAME", "r"),
        ("OS_ENDPOINT_TYPE", "internalURL"),
    ];
    let expected = "https://k/identity {\"auth\":{\"identity\":{\"methods\":[\"password\"],\
                    \"password\":{\"user\":{\"name\":\"u\",\"domain\":{\"name\":\"Default\"},\
                    \"password\":\"p\\\"w\"}}},\"scope\":{\"project\":{\"name\":\"t\",\
                    \"domain\":{\"id\":\"default\"}}}}} Some(\"r\") internal";
    assert_eq!(found(&keystone, None).as_deref(), Ok(expected));
    let v1 = [("ST_AUTH", "http://a/auth/v1.0"), ("ST_USER", "a:u"), ("ST_KEY", "k")];
    let both = [&keystone[..], &v1].concat();
    assert_eq!(found(&both, None).as_deref(), Ok("http://a/auth/v1.0 a:u k Some(\"r\") internal"));
    let token = [("OS_STORAGE_URL", "https://s/v1/a"), ("OS_AUTH_TOKEN", "t")];
    assert_eq!(found(&token, None).as_deref(), Ok("https://s/v1/a t None public"));
    let application = [
        ("OS_AUTH_URL", "https://k"),
        ("OS_APPLICATION_CREDENTIAL_ID", "i"),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "s"),
        ("OS_PROJECT_NAME", "ignored"),
    ];
    let text = found(&application, None).expect("is complete");
    assert!(text.contains("application_credential") && !text.contains("scope"), "{text}");
    for (variables, message) in [
        (&[][..], "OS_CLOUD"),
        (&keystone[..1], "username"),
        (&keystone[..2], "password"),
        (&[("OS_AUTH_URL", "x"), ("OS_AUTH_TYPE", "v3oidcpassword")], "v3oidcpassword"),
    ] {
        let error = found(variables, None).expect_err(message);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn clouds_are_found_in_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path.display().to_string()
    };
    let clouds = file(
        "clouds.yaml",
        "clouds:\n  a: &a\n    auth: {auth_url: 'https://k', username: u, project_id: 7}\n    \
         region_name: r\n    verify: false\n  b:\n    <<: *a\n    region_name: s\n  \
         v:\n    auth_type: v1password\n    auth: {auth_url: 'http://v', username: u, password: k}\n",
    );
    let secure =
        file("secure.yaml", "clouds: {a: {auth: {password: x}}, b: {auth: {password: y}}}");
    let variables = [("OS_CLIENT_CONFIG_FILE", &*clouds), ("OS_CLIENT_SECURE_FILE", &*secure)];
    let of = |cloud| found(&variables, Some(cloud));
    let text = of("a").expect("is complete");
    assert!(text.contains("\"password\":\"x\"") && text.contains("{\"id\":\"7\"}"), "{text}");
    assert!(of("b").expect("is complete").ends_with("Some(\"s\") public"));
    assert_eq!(of("v").as_deref(), Ok("http://v u k None public"));
    let error = of("c").expect_err("is not there");
    assert!(error.contains("no cloud 'c'"), "{error}");
    // Several clouds, and none is named.
    let error = found(&variables, None).expect_err("is not clear");
    assert!(error.contains("OS_CLOUD"), "{error}");
    let named = [&variables[..], &[("OS_CLOUD", "v")]].concat();
    assert!(found(&named, None).is_ok());
    let only = file(
        "only.yaml",
        "clouds: {x: {auth_type: v1password, auth: {auth_url: 'http://o', \
                    username: u, password: k}}}",
    );
    let text = found(&[("OS_CLIENT_CONFIG_FILE", &*only)], None);
    assert_eq!(text.as_deref(), Ok("http://o u k None public"));
    let broken = file("broken.yaml", "clouds: {a: {auth: {password: secret\n - x");
    let error = found(&[("OS_CLIENT_CONFIG_FILE", &*broken)], Some("a")).expect_err("is broken");
    assert!(error.contains("YAML") && !error.contains("secret"), "{error}");
    assert!(files(&Environment::empty()).is_empty());
}

/// Requests a token.
fn issued(credentials: Credentials) -> Result<String, String> {
    let selection = Selection { credentials: Some(credentials), ..Selection::default() };
    let settings = Settings::find(&selection, &Environment::empty(), "object_store");
    let settings = settings.expect("is complete");
    let mut http = HttpOptions::default();
    (http.netrc, http.stall_timeout) = (None, Duration::from_secs(2));
    let transport = Transport::new(&settings.http(&http)).expect("is valid");
    let session = Session::new(settings, transport, "object-store");
    let text = |failure: Failure| SourceError::from(failure).to_string();
    session.issued().map(|issued| format!("{} {}", *issued.token, issued.endpoint)).map_err(text)
}

const TOKEN: (&str, &str) = ("X-Subject-Token", "T");

fn catalogue(url: &str) -> String {
    format!(
        "{{\"token\":{{\"expires_at\":\"2099-01-01T00:00:00.000000Z\",\"catalog\":[{{\"type\":\
         \"object-store\",\"endpoints\":[{{\"interface\":\"public\",\"region_id\":\"r\",\"url\":\
         \"{url}\"}}]}}]}}}}"
    )
}

#[test]
fn keystone_may_answer_anything() {
    let outcome = |status: &'static str, headers: &'static [(&str, &str)], body: String| {
        let server = Server::start(move |_, _| Reply::new(status, headers, body.as_bytes()));
        issued(Credentials::password(server.url("/v3/"), "u", "secret", "p"))
    };
    let created = "201 Created";
    let found = outcome(created, &[TOKEN], catalogue("http://s/v1/a/"));
    assert_eq!(found.as_deref(), Ok("T http://s/v1/a"));
    for (status, headers, body, message) in [
        (created, &[][..], catalogue("http://s"), "no token"),
        (created, &[TOKEN], "{}".into(), "malformed"),
        (created, &[TOKEN], "<html>".into(), "malformed"),
        (created, &[TOKEN], "{\"token\":{}}".into(), "no service 'object-store'"),
        (created, &[TOKEN], catalogue("file:///etc/passwd"), "not the URL of a service"),
        (created, &[TOKEN], catalogue("http://u:p@s/v1"), "not the URL of a service"),
        (
            "401 Unauthorized",
            &[],
            "{\"error\":{\"message\":\"no \\u001b[0m secret\"}}".into(),
            "is wrong",
        ),
        ("300 Multiple Choices", &[], String::new(), "answered 300"),
        ("404 Not Found", &[], String::new(), "URL of the authentication"),
    ] {
        let error = outcome(status, headers, body).expect_err(message);
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("secret") && !error.contains(char::is_control), "{error:?}");
    }
    let error = issued(Credentials::password("http://k/v2.0", "u", "p", "p")).expect_err("is old");
    assert!(error.contains("version 2"), "{error}");
    // What is asked encrypted is not answered with a name that is not.
    assert!(session_checked("http://s/v1", true).is_err());
    assert!(session_checked("https://s/v1", true).is_ok());
}

fn session_checked(url: &str, is_secure: bool) -> Result<String, ()> {
    session::checked(url, is_secure).map_err(|_| ())
}

#[test]
fn a_token_is_requested_once_until_it_expires() {
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&count);
    let server = Server::start(move |received, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        assert_eq!(received.header("x-auth-user"), Some("a:u"));
        let headers = [
            ("X-Auth-Token", "T"),
            ("X-Storage-Url", "http://s/v1"),
            ("X-Auth-Token-Expires", "99"),
        ];
        Reply::new("204 No Content", &headers, b"")
    });
    let credentials = Credentials::v1(server.url("/auth/v1.0"), "a:u", "k");
    let selection = Selection { credentials: Some(credentials), ..Selection::default() };
    let settings = Settings::find(&selection, &Environment::empty(), "object_store");
    let settings = settings.expect("is complete");
    let http = HttpOptions { netrc: None, ..HttpOptions::default() };
    let transport = Transport::new(&settings.http(&http)).expect("is valid");
    let session = Session::new(settings, transport, "object-store");
    let get = || session.issued().map_err(SourceError::from).expect("is issued");
    let first = get();
    let second = get();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    // Another thread has renewed it already: it is not renewed again.
    assert!(session.expire(&first));
    let third = get();
    assert!(session.expire(&second));
    drop(third);
    get();
    assert_eq!(count.load(Ordering::Relaxed), 2);
}
