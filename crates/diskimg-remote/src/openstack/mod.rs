//! Access to an OpenStack cloud: who asks, and where its services are.
//!
//! ```text
//!   variables, clouds.yaml ─► Settings ─► Session ─► Keystone (v3) or v1 ─► token, endpoints
//!                                            ▲                                 │
//!                                            └── a token that has expired: once ┘
//! ```

mod clouds;
mod keystone;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod yaml;

pub use settings::Credentials;

pub(crate) use session::{Issued, Session};
pub(crate) use settings::{Selection, Settings, files};

/// Minimum length in bytes of a secret: replacing shorter ones would spoil messages.
const MIN_SECRET: usize = 4;

/// Replaces secrets in what a server says, which may repeat the request.
pub(crate) fn concealed<'s>(text: &str, secrets: impl IntoIterator<Item = &'s str>) -> String {
    let secrets = secrets.into_iter().filter(|secret| secret.len() >= MIN_SECRET);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

/// Parses the bytes of a file or of a reply as the client does, for fuzzing: YAML if the first byte is
/// 0, or else a reply of Keystone.
///
/// # Panics
/// If what was found could harm the user who reads it.
#[doc(hidden)]
pub fn parse_for_fuzzing(bytes: &[u8]) {
    let Some((&kind, text)) = bytes.split_first() else { return };
    let text = &*String::from_utf8_lossy(text);
    match kind {
        0 => {
            if let Ok(node) = yaml::Node::parse(text) {
                let _ = node.get("clouds").and_then(|clouds| clouds.get("a"));
            }
        }
        _ => keystone::check(text),
    }
}
