//! Floor 3: verbs.
