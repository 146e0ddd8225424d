//! The sandbox for processes of other programs.

use super::{Calls, Rules, imp};
use diskimg::{ExternalFiles, Options};
use std::path::PathBuf;

/// The sandbox of the command, for a process of another program that is started for one operation.
///
/// Everything else that the process needs, such as modules, must be loaded before.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Confinement {
    /// Images that will be opened, and the files to which each may refer.
    pub read: Vec<(PathBuf, ExternalFiles)>,
    /// Files that will be created or replaced.
    pub write: Vec<PathBuf>,
    /// Images that will be modified in place, and the files to which each may refer.
    pub modify: Vec<(PathBuf, ExternalFiles)>,
    /// Options of the image that is written.
    pub options: Options,
}

impl Confinement {
    /// Irrevocably restricts the system calls of the process, and the files that the calling thread
    /// and the threads that it creates later can open. Creates the temporary file of the first file
    /// that is written, which [`release_output`](diskimg::storage::output::release_output) removes
    /// if the operation does not use it.
    ///
    /// # Errors
    /// A message, if the system does not support this fully. It may have been applied in part.
    pub fn apply(&self) -> Result<(), String> {
        let calls = match self.write.first() {
            Some(path) => Calls::create(path).and_options(&self.options),
            None if !self.modify.is_empty() => Calls::modify(),
            None => Calls::read(),
        };
        let mut rules = Rules::new().allow_cpu_count().allow_time_zone();
        for (path, policy) in &self.read {
            rules = rules.allow_read([path]).allow_references(path, *policy);
        }
        let calls = calls.and_spool();
        super::reserve(&calls);
        for path in &self.write {
            rules = rules.allow_write(path, &self.options);
        }
        for (path, policy) in &self.modify {
            rules = rules.allow_overwrite(path).allow_references(path, *policy);
        }
        let applied = imp::restrict_calls(&calls).and_then(|()| imp::restrict_files(&rules));
        applied.map_err(|e| e.to_string())
    }
}
