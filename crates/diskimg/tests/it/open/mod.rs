//! Tests of opening: compressed files, the policy for external files, limits, known
//! vulnerabilities, protocols.

mod compressed;
pub(crate) mod external_files;
mod known_vulnerabilities;
mod limits;
mod probing;
mod protocols;
