//! Traits that users of the library can name but not implement.

/// Supertrait of the sealed traits. Other crates cannot name it, and so cannot implement them.
pub trait Sealed {}
