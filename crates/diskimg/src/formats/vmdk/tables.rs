//! The grain tables read last, kept in memory.

use crate::error::Result;
use crate::storage::lock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// How many there are of an extent: with 512 grains of 64 KiB each they speak
/// for 512 MiB.
const CACHED_TABLES: usize = 16;

/// Bytes of tables that all extents of a disk may keep together.
const BUDGET_BYTES: usize = 16 << 20;

/// What the caches of one disk share: a disk of thousands of extents takes no
/// more memory than one of few.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryBudget(Arc<AtomicUsize>);

impl MemoryBudget {
    /// Takes `bytes`, if they are left.
    fn take(&self, bytes: usize) -> bool {
        let taken = |used: usize| used.checked_add(bytes).filter(|&used| used <= BUDGET_BYTES);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Tables by their index in the grain directory, the last used one first.
#[derive(Debug)]
pub(super) struct TableCache<T> {
    tables: Mutex<Vec<(u64, Arc<[T]>)>>,
    budget: MemoryBudget,
}

impl<T> TableCache<T> {
    /// An empty cache that shares `budget` with others.
    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self { tables: Mutex::default(), budget }
    }

    /// The table `index`; what is not here is `read`.
    ///
    /// # Errors
    /// As `read`.
    pub(super) fn get(
        &self,
        index: u64,
        read: impl FnOnce() -> Result<Vec<T>>,
    ) -> Result<Arc<[T]>> {
        if let Some(table) = self.cached(index) {
            return Ok(table);
        }
        // Others may read meanwhile; the same table twice does no harm.
        let table: Arc<[T]> = read()?.into();
        let mut tables = lock(&self.tables);
        while tables.len() >= CACHED_TABLES {
            let gone = tables.pop().map_or(0, |(_, table)| size_of_val(&*table));
            self.budget.give_back(gone);
        }
        if self.budget.take(size_of_val(&*table)) {
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
    fn a_table_is_read_once_until_sixteen_others_were() {
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
        assert_eq!(get(0), 17, "the last used one is kept");
        assert_eq!(get(1), 18, "the first used one is gone");
    }

    #[test]
    fn what_could_not_be_read_is_not_kept() {
        let cache = TableCache::<u8>::new(MemoryBudget::default());
        assert!(cache.get(0, || Err(Error::invalid("not now"))).is_err());
        assert_eq!(*cache.get(0, || Ok(vec![7])).expect("reads"), [7]);
    }
    #[test]
    fn a_disk_of_many_extents_keeps_no_more_tables_than_fit_in_its_room() {
        let budget = MemoryBudget::default();
        let caches: Vec<_> = (0..100).map(|_| TableCache::<u8>::new(budget.clone())).collect();
        for cache in &caches {
            assert_eq!(cache.get(0, || Ok(vec![1; 1 << 20])).expect("reads").len(), 1 << 20);
        }
        let kept = caches.iter().filter(|cache| cache.cached(0).is_some()).count();
        assert_eq!(kept, BUDGET_BYTES >> 20);
        // An extent goes on with the budget that it has.
        for index in 1..40 {
            caches[0].get(index, || Ok(vec![1; 1 << 10])).expect("reads");
        }
        assert!(budget.0.load(Ordering::Relaxed) <= BUDGET_BYTES);
    }
}
