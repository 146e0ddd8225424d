//! Which cloud is used, and as whom: what the caller, variables and files say.

use super::clouds::{Cloud, Clouds, candidates};
use crate::environment::Environment;
use crate::http::HttpOptions;
use diskimg::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// A text that is overwritten when it is dropped.
pub(super) type Secret = Zeroizing<String>;

/// Who asks, and where that is verified. Secrets are not shown.
#[derive(Clone)]
pub struct Credentials(pub(super) Method);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// How a token is had.
#[derive(Clone)]
pub(super) enum Method {
    /// Swift's own authentication.
    V1 { url: String, user: String, key: Secret },
    /// Keystone, version 3.
    Keystone { url: String, identity: Box<Identity>, scope: Box<Scope> },
    /// The caller has one.
    Token { token: Secret, storage_url: String },
}

#[derive(Clone)]
pub(super) enum Identity {
    Password {
        user: Named,
        password: Secret,
    },
    /// By its identifier, or by its name and its user.
    Application {
        id: Option<String>,
        name: Option<(String, Named)>,
        secret: Secret,
    },
    Token(Secret),
}

/// A user or project: by its identifier, or by its name in a domain.
#[derive(Clone, Default)]
pub(super) struct Named {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) domain_id: Option<String>,
    pub(super) domain_name: Option<String>,
}

/// What the token is for.
#[derive(Clone)]
pub(super) enum Scope {
    /// What the credentials imply.
    Implied,
    Project(Named),
    Domain {
        id: Option<String>,
        name: Option<String>,
    },
}

impl Credentials {
    /// Swift's own authentication: `tempauth`, or the RADOS Gateway. `url` is that of the service that
    /// issues tokens, such as `https://HOST/auth/v1.0`.
    pub fn v1(url: impl Into<String>, user: impl Into<String>, key: impl Into<String>) -> Self {
        let key = Zeroizing::new(key.into());
        Self(Method::V1 { url: url.into(), user: user.into(), key })
    }

    /// A user and a project of the domain `default`. `url` is that of Keystone.
    pub fn password(
        url: impl Into<String>,
        user: impl Into<String>,
        password: impl Into<String>,
        project: impl Into<String>,
    ) -> Self {
        let named = |name: String| Named {
            name: Some(name),
            domain_id: Some("default".into()),
            ..Named::default()
        };
        let password = Zeroizing::new(password.into());
        Self(Method::Keystone {
            url: url.into(),
            identity: Box::new(Identity::Password { user: named(user.into()), password }),
            scope: Box::new(Scope::Project(named(project.into()))),
        })
    }

    /// An application credential, by its identifier. `url` is that of Keystone.
    pub fn application(
        url: impl Into<String>,
        id: impl Into<String>,
        secret: impl Into<String>,
    ) -> Self {
        let (id, secret) = (Some(id.into()), Zeroizing::new(secret.into()));
        let identity = Identity::Application { id, name: None, secret };
        let (identity, scope) = (Box::new(identity), Box::new(Scope::Implied));
        Self(Method::Keystone { url: url.into(), identity, scope })
    }

    /// A token that the caller has, for the account of this URL. It cannot be renewed.
    pub fn token(storage_url: impl Into<String>, token: impl Into<String>) -> Self {
        let token = Zeroizing::new(token.into());
        Self(Method::Token { token, storage_url: storage_url.into() })
    }
}

/// What the caller says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) cloud: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) interface: Option<String>,
    pub(crate) credentials: Option<Credentials>,
}

/// How a cloud is accessed.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(super) method: Method,
    pub(super) region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(super) interface: String,
    /// The endpoint of the service, instead of that of the catalogue.
    pub(super) endpoint: Option<String>,
    ca_bundle: Option<PathBuf>,
    insecure: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// Returns the files that may be read.
pub(crate) fn files(environment: &Environment) -> Vec<PathBuf> {
    let mut files = candidates(environment, "OS_CLIENT_CONFIG_FILE", "clouds");
    files.extend(candidates(environment, "OS_CLIENT_SECURE_FILE", "secure"));
    files.extend(environment.get("OS_CACERT").map(PathBuf::from));
    files
}

impl Settings {
    /// Finds the settings for a service: those of a cloud that is named, or else those of variables, or
    /// else those of the only cloud of `clouds.yaml`. `service` is a part of a name of a setting, such
    /// as `object_store`.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if there are none, or if they are incomplete,
    /// and [`Io`](diskimg::ErrorKind::Io) if a file cannot be read.
    pub(crate) fn find(
        selection: &Selection,
        environment: &Environment,
        service: &str,
    ) -> Result<Self> {
        let mut settings = match &selection.credentials {
            Some(Credentials(method)) => Self::of(method.clone()),
            None => Self::of_user(selection, environment, service)?,
        };
        if let Some(region) = &selection.region {
            settings.region = Some(region.clone());
        }
        if let Some(interface) = &selection.interface {
            settings.interface = plain_interface(interface);
        }
        Ok(settings)
    }

    fn of(method: Method) -> Self {
        let interface = "public".into();
        Self { method, region: None, interface, endpoint: None, ca_bundle: None, insecure: false }
    }

    fn of_user(selection: &Selection, environment: &Environment, service: &str) -> Result<Self> {
        let cloud = selection.cloud.clone().or_else(|| environment.get("OS_CLOUD"));
        if let Some(name) = cloud {
            return Self::of_cloud(&Clouds::load(environment)?.get(&name)?, &name, service);
        }
        if let Some(found) = Self::of_variables(environment)? {
            return Ok(found);
        }
        let clouds = Clouds::load(environment)?;
        match clouds.only() {
            Some(name) => Self::of_cloud(&clouds.get(&name)?, &name, service),
            None => Err(Error::invalid("it is not known as whom to access OpenStack").hint(
                "set OS_CLOUD to the name of a cloud in clouds.yaml, or set OS_AUTH_URL and the \
                 other variables of an openrc file, or ST_AUTH, ST_USER and ST_KEY",
            )),
        }
    }

    fn of_cloud(cloud: &Cloud<'_>, name: &str, service: &str) -> Result<Self> {
        let incomplete =
            |what: &str| Error::invalid(format!("the cloud '{name}' in clouds.yaml has no {what}"));
        let endpoint = cloud.get(&format!("{service}_endpoint_override"));
        let kind = cloud.get("auth_type").unwrap_or_default();
        let method = match &*kind {
            "v1password" => Method::V1 {
                url: cloud.auth("auth_url").ok_or_else(|| incomplete("auth_url"))?,
                user: cloud.auth("username").ok_or_else(|| incomplete("username"))?,
                key: cloud.auth("password").ok_or_else(|| incomplete("password"))?.into(),
            },
            "admin_token" | "token_endpoint" => Method::Token {
                token: cloud.auth("token").ok_or_else(|| incomplete("token"))?.into(),
                storage_url: cloud.auth("endpoint").ok_or_else(|| incomplete("endpoint"))?,
            },
            _ => keystone(&kind, &|key| cloud.auth(key)).map_err(|what| incomplete(&what))?,
        };
        let mut settings = Self::of(method);
        settings.endpoint = endpoint;
        settings.region = cloud.get("region_name");
        let interface = cloud.get("interface").or_else(|| cloud.get("endpoint_type"));
        settings.interface = plain_interface(interface.as_deref().unwrap_or("public"));
        settings.ca_bundle = cloud.get("cacert").map(PathBuf::from);
        let verify = cloud.get("verify").map(|text| text.to_ascii_lowercase());
        settings.insecure = verify.is_some_and(|v| matches!(&*v, "false" | "no" | "off" | "0"));
        Ok(settings)
    }

    fn of_variables(environment: &Environment) -> Result<Option<Self>> {
        let get = |name: &str| environment.get(name);
        let token = || get("OS_AUTH_TOKEN").or_else(|| get("OS_TOKEN"));
        let v1 = (get("ST_AUTH"), get("ST_USER"), get("ST_KEY"));
        let method = if let (Some(url), Some(user), Some(key)) = v1 {
            Method::V1 { url, user, key: key.into() }
        } else if let (Some(storage_url), Some(token)) = (get("OS_STORAGE_URL"), token()) {
            Method::Token { token: token.into(), storage_url }
        } else if get("OS_AUTH_URL").is_some() {
            let kind = get("OS_AUTH_TYPE").unwrap_or_default();
            keystone(&kind, &|key| variable(environment, key)).map_err(|what| {
                Error::invalid(format!("OS_AUTH_URL is set, but there is no {what}"))
            })?
        } else {
            return Ok(None);
        };
        let is_keystone = matches!(method, Method::Keystone { .. });
        let mut settings = Self::of(method);
        settings.endpoint = get("OS_STORAGE_URL").filter(|_| is_keystone);
        settings.region = get("OS_REGION_NAME");
        let interface = get("OS_INTERFACE").or_else(|| get("OS_ENDPOINT_TYPE"));
        settings.interface = plain_interface(interface.as_deref().unwrap_or("public"));
        settings.ca_bundle = get("OS_CACERT").map(PathBuf::from);
        settings.insecure = environment.is_on("OS_INSECURE");
        Ok(Some(settings))
    }

    /// Returns the options with the certificates of the cloud, unless the caller names some.
    pub(crate) fn http(&self, options: &HttpOptions) -> HttpOptions {
        let mut http = options.clone();
        (http.headers, http.netrc) = (Vec::new(), None);
        http.ca_bundle = http.ca_bundle.or_else(|| self.ca_bundle.clone());
        http.insecure |= self.insecure;
        http
    }
}

/// Returns the value of a variable, by the name that the setting has in `clouds.yaml`.
fn variable(environment: &Environment, key: &str) -> Option<String> {
    let name = format!("OS_{}", key.to_ascii_uppercase());
    let older = match key {
        "project_name" => Some("OS_TENANT_NAME"),
        "project_id" => Some("OS_TENANT_ID"),
        "token" => Some("OS_AUTH_TOKEN"),
        "default_domain_id" => Some("OS_DEFAULT_DOMAIN"),
        _ => None,
    };
    environment.get(&name).or_else(|| environment.get(older?))
}

/// Returns the method of a cloud with Keystone; `get` returns the settings of `auth`.
///
/// # Errors
/// Returns what is missing.
fn keystone(
    kind: &str,
    get: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<Method, String> {
    let need = |key: &str| get(key).ok_or_else(|| key.to_owned());
    let named = |what: &str| {
        let domain = |part: &str| {
            let own = get(&format!("{what}_domain_{part}"));
            own.or_else(|| get(&format!("default_domain_{part}")))
        };
        Named {
            id: get(&format!("{what}_id")),
            name: get(if what == "user" { "username" } else { "project_name" }),
            domain_id: domain("id"),
            domain_name: domain("name"),
        }
    };
    let user = || {
        let user = named("user");
        match user.id.is_some() || user.name.is_some() {
            true => Ok(user),
            false => Err("username"),
        }
    };
    let url = need("auth_url")?;
    let secret = get("application_credential_secret");
    let identity = if kind == "v3applicationcredential" || (kind.is_empty() && secret.is_some()) {
        let secret = secret.ok_or("application_credential_secret")?.into();
        let (id, name) = (get("application_credential_id"), get("application_credential_name"));
        match (id, name) {
            (Some(id), _) => Identity::Application { id: Some(id), name: None, secret },
            (None, Some(name)) => {
                Identity::Application { id: None, name: Some((name, user()?)), secret }
            }
            (None, None) => return Err("application_credential_id".into()),
        }
    } else if matches!(kind, "token" | "v3token")
        || (kind.is_empty() && get("password").is_none() && get("token").is_some())
    {
        Identity::Token(need("token")?.into())
    } else if matches!(kind, "" | "password" | "v3password") {
        Identity::Password { user: user()?, password: need("password")?.into() }
    } else {
        return Err(format!("auth_type that is supported: '{kind}' is not"));
    };
    let project = named("project");
    let (domain_id, domain_name) = (get("domain_id"), get("domain_name"));
    let scope = if matches!(identity, Identity::Application { .. }) {
        // It is for one project.
        Scope::Implied
    } else if project.id.is_some() || project.name.is_some() {
        Scope::Project(project)
    } else if domain_id.is_some() || domain_name.is_some() {
        Scope::Domain { id: domain_id, name: domain_name }
    } else {
        Scope::Implied
    };
    Ok(Method::Keystone { url, identity: Box::new(identity), scope: Box::new(scope) })
}

/// Returns `public` of `publicURL`.
fn plain_interface(name: &str) -> String {
    name.strip_suffix("URL").unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
impl Credentials {
    /// Returns what a token is requested with.
    pub(crate) fn described(&self) -> String {
        match &self.0 {
            Method::V1 { url, user, key } => format!("{url} {user} {}", **key),
            Method::Keystone { url, identity, scope } => {
                format!("{url} {}", super::keystone::request(identity, scope))
            }
            Method::Token { token, storage_url } => format!("{storage_url} {}", **token),
        }
    }
}
