//! Proxies that the environment names, as curl(1) reads it.

use diskimg::{Error, Result};
use std::env;
use ureq::Proxy;

/// Returns the proxy for a host, if the environment names one.
///
/// # Errors
/// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it cannot be used, rather than connecting
/// without it.
pub(super) fn for_host(scheme: &str, host: &str) -> Result<Option<Proxy>> {
    select(scheme, host, |name| env::var(name).ok())
}

fn select(
    scheme: &str,
    host: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>> {
    let find = |name: &str| {
        let found = variable(&name.to_lowercase()).or_else(|| variable(name));
        found.filter(|value| !value.trim().is_empty()).map(|value| (name.to_owned(), value))
    };
    // A CGI program gets `HTTP_PROXY` from the header `Proxy` of a request.
    let own = match scheme {
        "http" if variable("REQUEST_METHOD").is_some() => {
            variable("http_proxy").map(|value| ("http_proxy".to_owned(), value))
        }
        "http" => find("HTTP_PROXY"),
        _ => find("HTTPS_PROXY"),
    };
    let Some((name, value)) = own.or_else(|| find("ALL_PROXY")) else { return Ok(None) };
    if find("NO_PROXY").is_some_and(|(_, list)| is_excepted(&list, host)) {
        return Ok(None);
    }
    let with_scheme = match value.contains("://") {
        true => value,
        false => format!("http://{value}"),
    };
    // The value may contain a password.
    let wrong = || Error::invalid(format!("the proxy in {name} cannot be used"));
    if !["http://", "https://"].iter().any(|scheme| with_scheme.starts_with(scheme)) {
        return Err(wrong().hint("proxies of the kinds http: and https: are supported"));
    }
    Proxy::new(&with_scheme).map(Some).map_err(|_| wrong())
}

/// Returns true if a list such as `localhost, .example.org, *` contains the host.
fn is_excepted(list: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    list.split(',').map(|name| name.trim().to_ascii_lowercase()).any(|name| {
        let name = name.trim_start_matches('.').trim_matches(['[', ']']);
        let is_below = || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        name == "*" || (!name.is_empty() && (host == name || is_below()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], scheme: &str, host: &str) -> Result<Option<String>> {
        let get = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        let proxy = select(scheme, host, get)?;
        Ok(proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())))
    }

    #[test]
    fn the_proxy_is_that_of_the_scheme() {
        let both =
            [("HTTP_PROXY", "http://a:1"), ("https_proxy", "http://b:2"), ("ALL_PROXY", "c:3")];
        assert_eq!(chosen(&both, "http", "h").expect("is valid").as_deref(), Some("a:1"));
        assert_eq!(chosen(&both, "https", "h").expect("is valid").as_deref(), Some("b:2"));
        let all = [("all_proxy", "c:3")];
        assert_eq!(chosen(&all, "https", "h").expect("is valid").as_deref(), Some("c:3"));
        assert_eq!(chosen(&[], "https", "h").expect("is valid"), None);
        let cgi = [("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")];
        assert_eq!(chosen(&cgi, "http", "h").expect("is valid"), None);
    }

    #[test]
    fn hosts_can_be_excepted() {
        for (list, host, is_direct) in [
            ("localhost, 127.0.0.1", "127.0.0.1", true),
            (".example.org", "a.example.org", true),
            ("example.org", "a.Example.org", true),
            ("example.org", "badexample.org", false),
            ("*", "x", true),
            ("", "x", false),
            (" , ", "x", false),
            ("::1", "[::1]", true),
        ] {
            let variables = [("ALL_PROXY", "c:3"), ("NO_PROXY", list)];
            let found = chosen(&variables, "http", host).expect("is valid");
            assert_eq!(found.is_none(), is_direct, "{list} {host}");
        }
    }

    #[test]
    fn an_unusable_proxy_is_an_error() {
        for value in ["socks5://x:1", "ftp://x:1", "http://", "http://a b"] {
            let error = chosen(&[("ALL_PROXY", value)], "http", "h").expect_err(value);
            assert!(error.to_string().contains("ALL_PROXY"), "{error}");
        }
    }
}
