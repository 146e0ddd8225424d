//! Opening: the policy for external files, the limits, known vulnerabilities.

pub(crate) mod external_files;
mod known_vulnerabilities;
mod limits;
