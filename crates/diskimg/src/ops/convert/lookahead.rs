//! Loading tables ahead of the plan.
//!
//! The plan maps one window after the other, so it would wait for every table that must be read.
//! For storage that answers slowly, a thread asks the layers to load the tables of the next windows
//! into the sources' caches.

use super::input::Input;
use crate::model::image::WINDOW;
use crate::storage::lock;
use std::sync::{Condvar, Mutex};

/// How far ahead of the plan tables are loaded, at most, in guest bytes.
const MAX_AHEAD: u64 = 1 << 30;

/// Number of tables that are loaded ahead of the plan, about. Each may take a block of the cache.
const TABLES: u64 = 256;

/// Loads the tables of an input ahead of its plan.
pub(super) struct Lookahead<'a> {
    input: &'a Input,
    /// How far ahead of the plan tables are loaded, in guest bytes.
    ahead: u64,
    /// Guest offset up to which the plan has mapped the input; `None` when it has ended.
    planned: Mutex<Option<u64>>,
    changed: Condvar,
}

impl<'a> Lookahead<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        // A table is usually one cluster of entries of 8 bytes.
        let cluster = input.min_cluster_size();
        let covered = cluster.saturating_mul(cluster / 8);
        let ahead = covered.saturating_mul(TABLES).min(MAX_AHEAD);
        Self { input, ahead, planned: Mutex::new(Some(0)), changed: Condvar::new() }
    }

    /// Loads tables until the plan ends.
    pub(super) fn run(&self) {
        let (mut at, size) = (0, self.input.size());
        while at < size && self.wait_for(at) {
            let next = self.input.next_window(at, size, self.ahead.min(WINDOW));
            self.input.prefetch_tables(at..next);
            at = next;
        }
    }

    /// Waits until the plan is near `at`. Returns false if it has ended.
    fn wait_for(&self, at: u64) -> bool {
        let mut planned = lock(&self.planned);
        while planned.is_some_and(|planned| at > planned.saturating_add(self.ahead)) {
            planned = self.changed.wait(planned).unwrap_or_else(|e| e.into_inner());
        }
        planned.is_some()
    }

    /// Informs the thread that the plan has mapped the input up to `offset`.
    pub(super) fn advance(&self, offset: u64) {
        let mut planned = lock(&self.planned);
        if planned.is_some_and(|planned| planned < offset) {
            *planned = Some(offset);
            self.changed.notify_all();
        }
    }

    /// Returns a guard that ends the thread when it is dropped.
    pub(super) fn guard(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Lookahead<'a>);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                *lock(&self.0.planned) = None;
                self.0.changed.notify_all();
            }
        }
        Guard(self)
    }
}
