//! Variables and files of the user.

use super::{Keys, MAX_TOKEN, refused};
use crate::environment::Environment;
use crate::http::transport::{Attempt, Failure};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

impl Environment {
    /// Returns the directory `.aws` of the user.
    fn directory(&self) -> Option<PathBuf> {
        Some(self.home()?.join(".aws"))
    }

    /// Returns the file with settings of profiles.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.file("AWS_CONFIG_FILE", "config")
    }

    /// Returns the file with keys of profiles.
    pub(super) fn credentials_file(&self) -> Option<PathBuf> {
        self.file("AWS_SHARED_CREDENTIALS_FILE", "credentials")
    }

    fn file(&self, variable: &str, name: &str) -> Option<PathBuf> {
        let named = self.get(variable).map(PathBuf::from);
        named.or_else(|| Some(self.directory()?.join(name)))
    }

    /// Returns the directory with the tokens of `aws sso login`.
    pub(super) fn sso_cache(&self) -> Option<PathBuf> {
        Some(self.directory()?.join("sso/cache"))
    }

    /// Returns all files and directories that may be read.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        const TOKENS: [&str; 2] =
            ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
        let own = [self.config_file(), self.credentials_file(), self.sso_cache()];
        let bundle = self.get("AWS_CA_BUNDLE").map(PathBuf::from);
        let tokens = TOKENS.iter().filter_map(|name| self.get(name)).map(PathBuf::from);
        let tokens = tokens.map(token_place);
        own.into_iter().flatten().chain(bundle).chain(tokens).collect()
    }

    /// Returns the keys in variables.
    pub(super) fn keys(&self) -> Attempt<Option<Keys>> {
        let Some(access) = self.get("AWS_ACCESS_KEY_ID") else { return Ok(None) };
        match self.get("AWS_SECRET_ACCESS_KEY") {
            Some(secret) => {
                let token = self.get("AWS_SESSION_TOKEN").map(|token| token.trim().to_owned());
                Ok(Some(Keys::new(access.trim(), secret.trim(), token)))
            }
            None => Err(refused("AWS_ACCESS_KEY_ID is set, but not AWS_SECRET_ACCESS_KEY")),
        }
    }

    /// Returns true if a container has keys.
    pub(super) fn has_container(&self) -> bool {
        let names =
            ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
        names.iter().any(|name| self.get(name).is_some())
    }
}

/// Returns what must be readable so that a token in a file can be read again when it was replaced:
/// Kubernetes replaces the directory in which such a file is.
pub(crate) fn token_place(file: PathBuf) -> PathBuf {
    match file.parent() {
        Some(directory) if directory.join("..data").exists() => directory.to_owned(),
        _ => file,
    }
}

/// Reads a file with a token, without the spaces around it.
pub(crate) fn read_token(file: &Path) -> Attempt<String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(e) => {
            let message = format!("cannot read the token in '{}': {e}", file.display());
            Err(Failure::Final(io::Error::new(e.kind(), message)))
        }
    }
}
