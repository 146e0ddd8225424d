//! The files `~/.aws/config` and `~/.aws/credentials`.
//!
//! ```text
//!   [profile dev]                     in `credentials`: [dev]
//!   role_arn = arn:aws:iam::1:role/r
//!   source_profile = default
//!   s3 =
//!     max_concurrent_requests = 20    an indented line belongs to the one before it
//!   services = own
//!
//!   [services own]
//!   s3 =
//!     endpoint_url = https://store
//! ```

use super::{Environment, Keys};
use crate::http::transport::{Attempt, Failure};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// The profiles of a user.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    /// By their name.
    profiles: HashMap<String, Profile>,
    /// Sessions of single sign-on, by their name.
    sessions: HashMap<String, HashMap<String, String>>,
    /// Settings of services, by the name that profiles refer to.
    services: HashMap<String, HashMap<String, String>>,
}

/// The name of the setting `endpoint_url` of `s3` in [`Profiles::services`].
const S3_ENDPOINT: &str = "s3\nendpoint_url";

/// The settings of a profile, names in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    settings: HashMap<String, String>,
}

/// What kind of keys a profile has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Role,
    Static,
    SingleSignOn,
    Process,
}

impl Profiles {
    /// Reads the files that exist.
    pub(crate) fn load(environment: &Environment) -> Attempt<Self> {
        let text = |file: Option<PathBuf>| file.map_or_else(|| Ok(String::new()), |f| read(&f));
        let config = text(environment.config_file())?;
        Ok(Self::parse(&config, &text(environment.credentials_file())?))
    }

    /// Parses the texts of the files `config` and `credentials`.
    pub(crate) fn parse(config: &str, credentials: &str) -> Self {
        let mut profiles = Self::default();
        profiles.add_config(config);
        profiles.add_credentials(credentials);
        profiles
    }

    /// Adds the text of the file `config`.
    pub(super) fn add_config(&mut self, text: &str) {
        for (section, settings) in sections(text) {
            let (kind, name) = section.split_once([' ', '\t']).unwrap_or(("", &section));
            let name = name.trim().trim_matches('"');
            match kind {
                "services" => self.services.entry(name.to_owned()).or_default().extend(settings),
                "sso-session" => self.sessions.entry(name.to_owned()).or_default().extend(settings),
                "profile" => self.add(name, settings),
                "" if name == "default" => self.add(name, settings),
                _ => {}
            }
        }
    }

    /// Adds the text of the file `credentials`, whose settings replace those of the other file.
    pub(super) fn add_credentials(&mut self, text: &str) {
        for (section, settings) in sections(text) {
            self.add(&section, settings);
        }
    }

    fn add(&mut self, name: &str, settings: HashMap<String, String>) {
        self.profiles.entry(name.to_owned()).or_default().settings.extend(settings);
    }

    /// Returns the URL of the store that a profile names.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if its settings are in a section that does
    /// not exist: the store would be another one.
    pub(crate) fn endpoint(&self, profile: &Profile) -> diskimg::Result<Option<String>> {
        let own = profile.get("endpoint_url");
        let Some(name) = profile.get("services") else { return Ok(own.map(str::to_owned)) };
        let services = self.services.get(name).ok_or_else(|| {
            diskimg::Error::invalid(format!(
                "there is no section [services {name}] in the files of AWS"
            ))
        })?;
        let of_service = services.get(S3_ENDPOINT).map(|url| &**url).filter(|url| !url.is_empty());
        Ok(of_service.or(own).map(str::to_owned))
    }

    /// Returns a profile, with the settings of its session of single sign-on.
    pub(crate) fn get(&self, name: &str) -> Option<Profile> {
        let mut profile = self.profiles.get(name)?.clone();
        if let Some(session) = profile.get("sso_session").and_then(|name| self.sessions.get(name)) {
            for (name, value) in session {
                profile.settings.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        Some(profile)
    }
}

impl Profile {
    /// Returns a setting that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|value| &**value).filter(|value| !value.is_empty())
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        let has = |name| self.get(name).is_some();
        match () {
            () if has("role_arn") => Some(Kind::Role),
            () if has("aws_access_key_id") => Some(Kind::Static),
            () if has("sso_account_id") || has("sso_session") || has("sso_start_url") => {
                Some(Kind::SingleSignOn)
            }
            () if has("credential_process") => Some(Kind::Process),
            () => None,
        }
    }

    pub(super) fn static_keys(&self) -> Option<Keys> {
        let (access, secret) = (self.get("aws_access_key_id")?, self.get("aws_secret_access_key")?);
        Some(Keys::new(access, secret, self.get("aws_session_token").map(str::to_owned)))
    }
}

/// Reads a file; one that does not exist is empty.
fn read(file: &Path) -> Attempt<String> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => {
            let message = format!("cannot read '{}': {e}", file.display());
            Err(Failure::Final(io::Error::new(e.kind(), message)))
        }
    }
}

/// Returns the sections of a file, in its order. The name of an indented setting follows that of the
/// setting that it belongs to, and a line feed.
fn sections(text: &str) -> Vec<(String, HashMap<String, String>)> {
    let mut sections: Vec<(String, HashMap<String, String>)> = Vec::new();
    let mut parent = String::new();
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            sections.push((name.trim().to_owned(), HashMap::new()));
            parent.clear();
            continue;
        }
        let (Some((_, settings)), Some((name, value))) =
            (sections.last_mut(), line.split_once('='))
        else {
            continue;
        };
        // A comment after a value begins with a space.
        let value = value.split(" #").next().and_then(|v| v.split(" ;").next());
        let value = value.unwrap_or_default().trim();
        let mut name = name.trim().to_ascii_lowercase();
        match is_nested {
            true => name = format!("{parent}\n{name}"),
            false => parent.clone_from(&name),
        }
        settings.insert(name, value.to_owned());
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_from_both_files() {
        let mut profiles = Profiles::default();
        profiles.add_config(
            "# comment\n[default]\nregion=eu-west-1\ns3 =\n  endpoint_url = http://nested\n\
             [profile dev]\nRole_Arn = arn:x # comment\nsource_profile= default\n\
             [sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp\n\
             [profile sso]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = r\n\
             [other]\nregion = ignored\n[profile \"a b\"]\ncredential_process = x\nno setting\n",
        );
        profiles.add_credentials(
            "stray = 1\n[default]\naws_access_key_id = A\naws_secret_access_key = S/=+\n\
             region = eu-west-2\n[half]\naws_access_key_id = A\n",
        );
        let get = |name: &str| profiles.get(name).expect(name);
        let default = get("default");
        assert_eq!(default.get("region"), Some("eu-west-2"));
        assert_eq!(default.get("endpoint_url"), None, "it is a setting of another one");
        assert_eq!(default.static_keys(), Some(Keys::new("A", "S/=+", None)));
        assert_eq!(default.kind(), Some(Kind::Static));
        let dev = get("dev");
        assert_eq!((dev.kind(), dev.get("role_arn")), (Some(Kind::Role), Some("arn:x")));
        let sso = get("sso");
        assert_eq!(sso.kind(), Some(Kind::SingleSignOn));
        assert_eq!(sso.get("sso_start_url"), Some("https://corp"));
        assert_eq!(get("a b").kind(), Some(Kind::Process));
        assert_eq!(get("half").static_keys(), None);
        assert!(profiles.get("other").is_none());
    }

    #[test]
    fn services_have_endpoints_of_their_own() {
        let profiles = Profiles::parse(
            "[profile a]\nservices = own\nendpoint_url = http://all\n\
             [profile b]\nservices = other\nendpoint_url = http://all\n\
             [profile c]\nservices = absent\nendpoint_url = http://all\n\
             [profile d]\ns3 =\n  endpoint_url = http://nested\n\
             [services own]\nsts =\n  endpoint_url = http://sts\n\
             S3 = \n\tendpoint_url = http://s3 # x\n\
             [services other]\n  endpoint_url = http://stray\nsts =\n  endpoint_url = http://sts\n",
            "",
        );
        let endpoint = |name: &str| profiles.endpoint(&profiles.get(name).expect(name));
        assert_eq!(endpoint("a").expect("is valid").as_deref(), Some("http://s3"));
        assert_eq!(endpoint("b").expect("is valid").as_deref(), Some("http://all"));
        assert_eq!(endpoint("d").expect("is valid"), None);
        let error = endpoint("c").expect_err("there is none").to_string();
        assert!(error.contains("[services absent]"), "{error}");
    }
}
