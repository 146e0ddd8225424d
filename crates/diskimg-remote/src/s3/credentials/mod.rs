//! Where keys come from, and when they are renewed.
//!
//! | order | source | module |
//! |---|---|---|
//! | 1 | the caller | |
//! | 2 | a profile that the caller names | [`profile`] |
//! | 3 | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | |
//! | 4 | `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN` | [`sts`] |
//! | 5 | the profile `AWS_PROFILE`, or `default` | [`profile`] |
//! | 6 | `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` or `_FULL_URI` | [`instance`] |
//! | 7 | the metadata service of an EC2 instance, version 2 | [`instance`] |

pub(crate) mod environment;
mod instance;
mod profile;
pub(crate) mod services;
mod sso;
mod sts;
#[cfg(test)]
mod tests;

pub(crate) use crate::environment::Environment;
pub(crate) use profile::Profiles;
pub(crate) use services::{Services, keys_of_json};
pub(crate) use sts::keys_of_xml;

use crate::http::answer::Unexpected;
use crate::http::transport::{Attempt, Failure};
use jiff::{SignedDuration, Timestamp};
use profile::{Kind, Profile};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Keys are renewed this long before they expire.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);

/// After a failure, keys that are still valid are used at least this long.
const PAUSE: Duration = Duration::from_secs(30);

/// Maximum number of profiles that refer to each other.
const MAX_PROFILES: usize = 8;

/// Maximum length in bytes of a file with a token.
const MAX_TOKEN: u64 = 64 << 10;

/// An access key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    access: String,
    secret: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
}

impl Keys {
    /// Creates keys; temporary ones have a session token.
    pub fn new(
        access: impl Into<String>,
        secret: impl Into<String>,
        token: Option<String>,
    ) -> Self {
        let token = token.filter(|token| !token.is_empty()).map(Zeroizing::new);
        Self { access: access.into(), secret: Zeroizing::new(secret.into()), token }
    }

    pub(crate) fn access(&self) -> &str {
        &self.access
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.as_str())
    }

    /// Returns what must not be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        [Some(self.secret()), self.token()].into_iter().flatten()
    }

    /// Returns true if the keys can be parts of headers.
    fn is_valid(&self) -> bool {
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        is_word(&self.access) && is_word(&self.secret) && self.token().is_none_or(is_word)
    }
}

/// Without the secret.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("access", &self.access).finish_non_exhaustive()
    }
}

/// Keys, and when they expire.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) keys: Keys,
    pub(crate) expires: Option<Timestamp>,
}

impl Issued {
    fn lasts(&self, margin: SignedDuration) -> bool {
        self.expires.is_none_or(|expires| expires > Timestamp::now() + margin)
    }
}

/// Provides keys for requests, one thread at a time.
#[derive(Debug)]
pub(crate) struct Credentials {
    chain: Chain,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    issued: Option<Arc<Issued>>,
    /// When renewing failed, while the old keys were still valid.
    failed: Option<Instant>,
}

impl Credentials {
    pub(crate) fn new(chain: Chain) -> Self {
        Self { chain, state: Mutex::default() }
    }

    /// Returns keys that are valid, which may mean to ask a service for them.
    pub(crate) fn keys(&self) -> Attempt<Arc<Issued>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let valid = state.issued.clone().filter(|issued| issued.lasts(SignedDuration::ZERO));
        if let Some(issued) = &valid {
            let is_pause = state.failed.is_some_and(|failed| failed.elapsed() < PAUSE);
            if issued.lasts(MARGIN) || is_pause {
                return Ok(Arc::clone(issued));
            }
        }
        match (self.chain.issue(), valid) {
            (Ok(issued), _) if !issued.keys.is_valid() => {
                Err(refused("the access key has characters that a key cannot have"))
            }
            (Ok(issued), _) => {
                let issued = Arc::new(issued);
                *state = State { issued: Some(Arc::clone(&issued)), failed: None };
                Ok(issued)
            }
            (Err(_), Some(valid)) => {
                state.failed = Some(Instant::now());
                Ok(valid)
            }
            (Err(failure), None) => Err(failure),
        }
    }

    /// Returns the keys that were issued last.
    pub(crate) fn issued(&self) -> Option<Arc<Issued>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).issued.clone()
    }

    /// Forgets keys that a service refused because they have expired. Returns false if asking for
    /// them again would return the same ones.
    pub(crate) fn expire(&self, refused: &Arc<Issued>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.issued.as_ref().is_some_and(|issued| Arc::ptr_eq(issued, refused)) {
            state.issued = None;
        }
        refused.expires.is_some()
    }
}

/// The sources of keys in their order.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The caller's keys.
    pub(crate) keys: Option<Keys>,
    /// The profile that the caller names.
    pub(crate) profile: Option<String>,
    pub(crate) environment: Environment,
    pub(crate) services: Services,
}

impl Chain {
    fn issue(&self) -> Attempt<Issued> {
        if let Some(keys) = &self.keys {
            return Ok(Issued { keys: keys.clone(), expires: None });
        }
        let environment = &self.environment;
        if let Some(name) = &self.profile {
            let found = Profiles::load(environment)?.get(name).map(|p| (name.clone(), p));
            let (name, profile) = found.ok_or_else(|| no_profile(name))?;
            return self.of_profile(&name, &profile, &mut Vec::new());
        }
        if let Some(keys) = environment.keys()? {
            return Ok(Issued { keys, expires: None });
        }
        if let (Some(file), Some(role)) =
            (environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"), environment.get("AWS_ROLE_ARN"))
        {
            let session = environment.get("AWS_ROLE_SESSION_NAME");
            return self.web_identity(Path::new(&file), &role, session.as_deref());
        }
        let profiles = Profiles::load(environment)?;
        let named = environment.get("AWS_PROFILE");
        let name = named.clone().unwrap_or_else(|| "default".into());
        match profiles.get(&name) {
            Some(profile) if profile.kind().is_some() => {
                return self.of_profile(&name, &profile, &mut Vec::new());
            }
            None if named.is_some() => return Err(no_profile(&name)),
            _ => {}
        }
        if environment.has_container() {
            return self.services.container(environment);
        }
        if let Some(issued) = self.services.instance(environment)? {
            return Ok(issued);
        }
        Err(refused(
            "no access keys were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a \
             profile; public objects need none",
        ))
    }

    /// Returns the keys of a profile. `path` are the profiles that refer to it.
    fn of_profile(&self, name: &str, profile: &Profile, path: &mut Vec<String>) -> Attempt<Issued> {
        let in_profile = |text: &str| refused(format!("the profile '{name}' {text}"));
        if path.len() == MAX_PROFILES || path.iter().any(|other| other == name) {
            // A profile may be its own source: its static keys are meant then.
            return match profile.static_keys() {
                Some(keys) => Ok(Issued { keys, expires: None }),
                None => Err(in_profile("refers to itself")),
            };
        }
        path.push(name.to_owned());
        match profile.kind() {
            Some(Kind::Role) => {
                let role = profile.get("role_arn").unwrap_or_default();
                if profile.get("mfa_serial").is_some() {
                    return Err(in_profile("wants a code of a device (mfa_serial)").advise(name));
                }
                if let Some(file) = profile.get("web_identity_token_file") {
                    let session = profile.get("role_session_name");
                    return self.web_identity(Path::new(file), role, session);
                }
                let source = match (profile.get("source_profile"), profile.get("credential_source"))
                {
                    (Some(source), _) => {
                        let profiles = Profiles::load(&self.environment)?;
                        let found = profiles.get(source).ok_or_else(|| no_profile(source))?;
                        self.of_profile(source, &found, path)?
                    }
                    (None, Some(source)) => self.of_source(source)?,
                    (None, None) => return Err(in_profile("has a role_arn but no source_profile")),
                };
                self.services.assume_role(&self.environment, profile, &source.keys)
            }
            Some(Kind::Static) => match profile.static_keys() {
                Some(keys) => Ok(Issued { keys, expires: None }),
                None => Err(in_profile("has an access key without a secret one")),
            },
            Some(Kind::SingleSignOn) => self.services.single_sign_on(&self.environment, profile),
            Some(Kind::Process) => {
                Err(in_profile("has a credential_process, and no programs are started")
                    .advise(name))
            }
            None => Err(in_profile("has no keys")),
        }
    }

    /// Returns the keys that `credential_source` names.
    fn of_source(&self, source: &str) -> Attempt<Issued> {
        let environment = &self.environment;
        let none = || refused(format!("credential_source: {source} has no keys"));
        match source {
            "Environment" => {
                let keys = environment.keys()?.ok_or_else(none)?;
                Ok(Issued { keys, expires: None })
            }
            "EcsContainer" => self.services.container(environment),
            "Ec2InstanceMetadata" => self.services.instance(environment)?.ok_or_else(none),
            _ => Err(none()),
        }
    }

    fn web_identity(&self, file: &Path, role: &str, session: Option<&str>) -> Attempt<Issued> {
        let token = environment::read_token(file)?;
        self.services.web_identity(&self.environment, &token, role, session)
    }
}

/// Returns the failure of what cannot be done without other settings.
pub(crate) fn refused(message: impl Into<String>) -> Failure {
    let error = io::Error::new(io::ErrorKind::PermissionDenied, Unexpected(message.into()));
    Failure::Final(error)
}

fn no_profile(name: &str) -> Failure {
    refused(format!("there is no profile '{name}' in the files of AWS"))
}

/// Says how another program can provide the keys of a profile.
trait Advise {
    fn advise(self, profile: &str) -> Self;
}

impl Advise for Failure {
    fn advise(self, profile: &str) -> Self {
        let advice = format!(
            "run 'eval \"$(aws configure export-credentials --profile {profile} --format env)\"' first"
        );
        match self {
            Failure::Final(error) => {
                let message = Unexpected(format!("{error} ({advice})"));
                Failure::Final(io::Error::new(error.kind(), message))
            }
            temporary => temporary,
        }
    }
}
