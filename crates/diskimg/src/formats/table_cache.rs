//! A cache of the tables that locate guest bytes: grain tables, sector bitmaps.

use crate::error::Result;
use crate::storage::lock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Maximum number of tables per cache. Grain tables with 512 grains of 64 KiB cover 512 MiB.
const CACHED_TABLES: usize = 16;

/// Maximum size in bytes of the cached tables of all extents of a disk.
const BUDGET_BYTES: usize = 16 << 20;

/// The memory that the caches of one disk share, so that a disk of thousands of extents needs no
/// more than a disk of a few.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryBudget(Arc<AtomicUsize>);

impl MemoryBudget {
    /// Reserves `bytes` and returns true, or returns false if less is available.
    fn reserve(&self, bytes: usize) -> bool {
        let reserved = |used: usize| used.checked_add(bytes).filter(|&used| used <= BUDGET_BYTES);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserved).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Tables by their index, most recently used first.
#[derive(Debug)]
pub(crate) struct TableCache<T> {
    tables: Mutex<Vec<(u64, Arc<[T]>)>>,
    budget: MemoryBudget,
}

impl<T> TableCache<T> {
    /// Creates an empty cache that shares `budget` with others.
    pub(crate) fn new(budget: MemoryBudget) -> Self {
        Self { tables: Mutex::default(), budget }
    }

    /// Returns the table `index`, calling `read` if it is not cached.
    ///
    /// # Errors
    /// As `read`.
    pub(crate) fn get(
        &self,
        index: u64,
        read: impl FnOnce() -> Result<Vec<T>>,
    ) -> Result<Arc<[T]>> {
        if let Some(table) = self.cached(index) {
            return Ok(table);
        }
        // The lock is not held while reading: two threads may read the same table, which is
        // harmless.
        let table: Arc<[T]> = read()?.into();
        let mut tables = lock(&self.tables);
        while tables.len() >= CACHED_TABLES {
            let evicted = tables.pop().map_or(0, |(_, table)| size_of_val(&*table));
            self.budget.release(evicted);
        }
        if self.budget.reserve(size_of_val(&*table)) {
            tables.insert(0, (index, Arc::clone(&table)));
        }
        Ok(table)
    }

    fn cached(&self, index: u64) -> Option<Arc<[T]>> {
        let mut tables = lock(&self.tables);
        let found = tables.iter().position(|(i, _)| *i == index)?;
        tables[..=found].rotate_right(1);
        Some(Arc::clone(&tables[0].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_table_stays_cached_until_sixteen_others_were_used() {
        let cache = TableCache::new(MemoryBudget::default());
        let mut reads = 0;
        let mut get = |index: u64| {
            let table = cache.get(index, || {
                reads += 1;
                Ok(vec![index; 3])
            });
            assert_eq!(*table.expect("reads"), [index; 3]);
            reads
        };
        for index in 0..16 {
            assert_eq!(get(index), index + 1);
        }
        assert_eq!(get(0), 16);
        assert_eq!(get(16), 17);
        assert_eq!(get(0), 17, "the most recently used table is kept");
        assert_eq!(get(1), 18, "the least recently used table is evicted");
    }

    #[test]
    fn a_failed_read_is_not_cached() {
        let cache = TableCache::<u8>::new(MemoryBudget::default());
        assert!(cache.get(0, || Err(Error::invalid("not now"))).is_err());
        assert_eq!(*cache.get(0, || Ok(vec![7])).expect("reads"), [7]);
    }

    #[test]
    fn the_caches_of_many_extents_stay_within_the_shared_budget() {
        let budget = MemoryBudget::default();
        let caches: Vec<_> = (0..100).map(|_| TableCache::<u8>::new(budget.clone())).collect();
        for cache in &caches {
            assert_eq!(cache.get(0, || Ok(vec![1; 1 << 20])).expect("reads").len(), 1 << 20);
        }
        let cached = caches.iter().filter(|cache| cache.cached(0).is_some()).count();
        assert_eq!(cached, BUDGET_BYTES >> 20);
        // A full cache replaces its tables within the memory that it has already reserved.
        for index in 1..40 {
            caches[0].get(index, || Ok(vec![1; 1 << 10])).expect("reads");
        }
        assert!(budget.0.load(Ordering::Relaxed) <= BUDGET_BYTES);
    }
}
