//! Tables that are modified in memory until they are stored.

use std::collections::BTreeMap;

/// Tables of an image in memory, by their index in guest order.
///
/// A writer changes tables in ascending order. Those of guest bytes that are completely written can
/// be stored: their number is counted as the writer goes on, so that each is visited once.
#[derive(Debug)]
pub(crate) struct PendingTables<T> {
    tables: BTreeMap<u64, T>,
    /// Tables with a smaller index are counted in `complete`.
    counted: u64,
    complete: usize,
    /// Number of tables visited by [`complete_before`](Self::complete_before).
    #[cfg(test)]
    visited: usize,
}

impl<T> Default for PendingTables<T> {
    fn default() -> Self {
        Self {
            tables: BTreeMap::new(),
            counted: 0,
            complete: 0,
            #[cfg(test)]
            visited: 0,
        }
    }
}

impl<T> PendingTables<T> {
    pub(crate) fn contains(&self, index: u64) -> bool {
        self.tables.contains_key(&index)
    }

    /// Returns the table with this index, after inserting the one that `read` returns if there is
    /// none.
    pub(crate) fn get_or_try_insert<E>(
        &mut self,
        index: u64,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<&mut T, E> {
        use std::collections::btree_map::Entry;
        match self.tables.entry(index) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let table = entry.insert(read()?);
                self.complete += usize::from(index < self.counted);
                Ok(table)
            }
        }
    }

    /// Returns the number of tables with an index below `end`, which does not decrease from call to
    /// call.
    pub(crate) fn complete_before(&mut self, end: u64) -> usize {
        if end > self.counted {
            let newly = self.tables.range(self.counted..end).count();
            self.complete += newly;
            self.counted = end;
            #[cfg(test)]
            {
                self.visited += newly;
            }
        }
        self.complete
    }

    /// Removes and returns the tables with an index below `end`.
    pub(crate) fn take_before(&mut self, end: u64) -> BTreeMap<u64, T> {
        self.complete_before(end);
        let later = self.tables.split_off(&end);
        let taken = std::mem::replace(&mut self.tables, later);
        self.complete = self.complete.saturating_sub(taken.len());
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_counted_once() {
        const TABLES: u64 = 10_000;
        let mut pending = PendingTables::default();
        for index in 0..TABLES {
            *pending.get_or_try_insert(index, || Ok::<_, ()>(0)).expect("inserts") += 1;
            // The last two tables are still being written.
            assert_eq!(to_u64(pending.complete_before(index.saturating_sub(1))), {
                index.saturating_sub(1)
            });
        }
        assert_eq!(to_u64(pending.visited), TABLES - 2);
        assert_eq!(pending.take_before(100).len(), 100);
        assert_eq!(to_u64(pending.complete_before(TABLES - 2)), TABLES - 102);
        assert_eq!(pending.take_before(u64::MAX).len(), 9900);
        assert_eq!(pending.complete_before(u64::MAX), 0);
        assert!(!pending.contains(TABLES - 1));
    }

    fn to_u64(number: usize) -> u64 {
        number as u64
    }
}
