//! Variables of the environment, by which users configure the access to stores.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Looks a variable up.
type Variable = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The variables of this process, or none.
#[derive(Clone)]
pub(crate) struct Environment(Option<Arc<Variable>>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        Self(Some(Arc::new(|name| env::var(name).ok())))
    }

    /// Without variables, and without the files of the user.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let variables: Vec<_> =
            variables.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        Self(Some(Arc::new(move |name| {
            variables.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
        })))
    }

    /// Returns true if the files of the user are not used.
    #[cfg(feature = "swift")]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns a variable that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.0.as_ref()?)(name).filter(|value| !value.trim().is_empty())
    }

    /// Returns true if a variable is set and does not say no.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| {
            !matches!(&*value.trim().to_ascii_lowercase(), "0" | "no" | "false" | "off")
        })
    }

    /// Returns the home directory of the user.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.get("HOME").or_else(|| self.get("USERPROFILE")).map(PathBuf::from)
    }
}
